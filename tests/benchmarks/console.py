"""Every page of the console, with many and few audit records and pending approvals."""

import re
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from calls_mcp.audit import Authority, Decision, Ending, Entry, audit_path, open_audit
from calls_mcp.console import Address, open_console
from calls_mcp.emulator import DEFAULT_ACCOUNT
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from calls_mcp.storage import ApprovalRequest, Binding, open_storage
from calls_mcp.tools.catalog import Json, load_operations
from calls_mcp.tools.preview import Preview
from tests.benchmarks.api import emulator
from tests.benchmarks.measurement import Measurement, in_turn
from tests.harness import access_to, placing
from tests.storage.redis_server import RedisServer

_MANY, _FEW = (10_000, 1_000), (100, 10)  # records, approvals
_CALLS = 1_000
_STALE = 61  # seconds, after which no answer is fresh
_LASTS = 86_400.0  # seconds that an approval waits
_GOAL = 100  # ms
_NEXT = re.compile(r'<a href="([^"]+)" rel="next"')
_CASE = re.compile(r'href="(/approvals/[0-9a-f]+)"')


@dataclass
class _Clock:
    """A clock that can be advanced."""

    ahead: float = 0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclass
class _Tab:
    """A signed-in browser; `places` are the measured pages by name."""

    http: httpx.Client
    clock: _Clock
    record: Callable[[], None]
    places: dict[str, str] = field(default_factory=dict[str, str])

    def read(self, place: str) -> str:
        answer = self.http.get(place)
        assert answer.status_code == 200, answer.text
        return answer.text

    def milliseconds(self, name: str) -> float:
        """Return the time of a page after all caches have expired."""
        self.clock.ahead += _STALE
        if name == "Audit log, after a new record":
            self.record()
        begun = time.perf_counter()
        self.read(self.places[name])
        taken = time.perf_counter() - begun
        self.read("/audit?check=now")  # so that background work ends before the next round
        return 1000 * taken


def measurements() -> Iterator[Measurement]:
    """Measure each page with each kind of store and amount of records."""
    with TemporaryDirectory() as folder, emulator(_CALLS) as api, ExitStack() as stack:
        redis = RedisServer(Path(folder))
        redis.start()
        stack.callback(redis.stop)
        redis_urls = [f"{redis.url.removesuffix('0')}{number}" for number in range(2)]
        sqlite_urls = [f"sqlite:///{folder}/{number}.db" for number in range(2)]
        for kind, stores in {"SQLite": sqlite_urls, "Redis": redis_urls}.items():
            with ExitStack() as tabs:
                many, few = (
                    tabs.enter_context(
                        _tab(
                            api,
                            amounts,
                            calls_mcp_state_url=store,
                            calls_mcp_audit_database=Path(folder) / f"{kind} {amounts[0]}.db",
                        )
                    )
                    for amounts, store in zip((_MANY, _FEW), stores, strict=True)
                )
                for name in many.places:
                    pages = (partial(tab.milliseconds, name) for tab in (many, few))
                    yield Measurement(
                        f"{name} ({kind})", "ms", _GOAL, *in_turn(*pages), is_absolute=True
                    )


@contextmanager
def _tab(api: str, amounts: tuple[int, int], **values: object) -> Generator[_Tab]:
    """Open a browser tab of a console with these settings and amounts of records and requests."""
    account = DEFAULT_ACCOUNT
    calls = f"{api}/2010-04-01/Accounts/{account.sid}/Calls.json?PageSize=1"
    sid = httpx.get(calls, auth=(account.sid, account.auth_token)).json()["calls"][0]["sid"]
    with start_blocking_portal() as portal:
        portal.call(_fill, values, amounts, sid)
        clock = _Clock()
        with (
            portal.wrap_async_context_manager(_console(api, values, clock)) as (url, link),
            httpx.Client(
                base_url=url, headers={"Origin": url}, trust_env=False, timeout=60
            ) as http,
        ):
            assert http.post("/sign-in", data={"link": link}).status_code == 200
            tab = _Tab(http, clock, _recorder(portal, values))
            tab.places = _places(tab, sid)
            yield tab


@asynccontextmanager
async def _console(
    api: str, values: Mapping[str, object], clock: _Clock
) -> AsyncGenerator[tuple[str, str]]:
    settings = load_settings(values)
    async with (
        Runtime(settings, access_to(api), clock=clock) as runtime,
        open_console(settings, Address(port=0), runtime, clock) as console,
    ):
        yield console.url, console.link("benchmarks").partition("?link=")[2]


def _places(tab: _Tab, sid: str) -> dict[str, str]:
    last = place = "/approvals"
    while found := _NEXT.search(tab.read(last)):
        last = unescape(found[1])
    case = _CASE.search(tab.read(place))
    assert case
    return {
        "Approvals": "/approvals",
        "Approvals, last page": last,
        "One approval request": case[1],
        "Calls": "/calls",
        "One call": f"/calls/{sid}",
        "Audit log": "/audit",
        "Audit log, after a new record": "/audit",
        "Audit log, search for a missing text": "/audit?text=nowhere",
        "Audit log, filter by a missing principal": "/audit?principal=nobody",
        "Audit log, filter by a day without records": "/audit?until=2001-01-01",
        "Overview": "/overview",
        "Policy": "/policy",
        "Operators": "/operators",
    }


async def _fill(values: Mapping[str, object], amounts: tuple[int, int], sid: str) -> None:
    """Write records, half of changes that were sent, half of requests for confirmation."""
    records, requests = amounts
    await _record(values, 1, sid)
    await _record(values, records // 4 - 1, "CA" + "0" * 32)
    async with open_storage(str(values["calls_mcp_state_url"])) as storage:
        for number in range(requests):
            assert await storage.add_request(_request(number), requests)


async def _record(values: Mapping[str, object], times: int, sid: str) -> None:
    """Write all records of a call that the operator approved, several times."""
    settings = load_settings(values)
    async with open_audit(audit_path(settings)) as audit:
        for number in range(times):
            authority = Authority("operator", "benchmarks", _request(number).identifier)
            await audit.record(_entry("asked", authority))
            await audit.record(_entry("approved", authority))
            attempt = await audit.begin(_entry("allowed", authority))
            await audit.end(attempt, Ending("done", http_status=201, sid=sid, request_id="RQ"))


def _recorder(portal: BlockingPortal, values: Mapping[str, object]) -> Callable[[], None]:
    return lambda: portal.call(_record, values, 1, "CA" + "0" * 32)


def _entry(decision: Decision, authority: Authority) -> Entry:
    return Entry(
        principal="benchmarks",
        operation=load_operations()["create_call"],
        action="place",
        arguments=cast("dict[str, Json]", placing()),
        decision=decision,
        account_sid=DEFAULT_ACCOUNT.sid,
        rule="confirm.place",
        authority=authority,
    )


def _request(number: int) -> ApprovalRequest:
    now = time.time()
    return ApprovalRequest(
        identifier=f"{number:016x}",
        binding=Binding("create_call", "0" * 64, f"principal {number}"),
        action="place",
        preview=Preview("Call +1 500 555 0205", '"benchmarks"', heard=('A voice says "Hello."',)),
        client="benchmarks 1",
        rule="confirm.place",
        asked_at=now,
        expires_at=now + _LASTS,
    )
