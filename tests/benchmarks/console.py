"""Every page of the console, with 100,000 calls and audit records and 1,000 pending approvals."""

import json
import re
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from html import unescape
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from calls_mcp.audit.log import AuditLog, audit_path, open_audit
from calls_mcp.audit.records import START, Authority, Decision, Ending, Entry, chain, timestamp
from calls_mcp.console import Address, open_console
from calls_mcp.emulator import DEFAULT_ACCOUNT
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.records import ApprovalRequest, Binding
from calls_mcp.tools.catalog import Json, load_operations
from calls_mcp.tools.outcome import Preview
from tests.benchmarks.api import emulator
from tests.benchmarks.measurement import Measurement
from tests.harness import access_to, placing
from tests.storage.redis_server import RedisServer

_RECORDS, _CALLS, _REQUESTS = 100_000, 100_000, 1_000
_WEEK = 7 * 86_400  # seconds in which the calls and records were made
_ROUNDS = 10
_CALLS_READ = 5_000  # by the overview; these have an origin in the audit log
_PRINCIPALS = 20
_STALE = 61  # seconds, after which no answer is fresh
_HALF_AN_HOUR = 1800
_LASTS = 86_400.0  # seconds that an approval waits
_GOAL = 60  # ms
_ON_STATE = ("Approvals", "One approval", "Policy")
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
    prepared_until: float = -1

    def read(self, place: str) -> str:
        answer = self.http.get(place)
        assert answer.status_code == 200, answer.text
        return answer.text

    def prepare(self) -> None:
        """Do what happens once an hour, so that it does not happen in the next rounds."""
        if self.clock.ahead > self.prepared_until:
            self.read("/overview")
            self.read("/audit?check=now")
            self.prepared_until = self.clock.ahead + _HALF_AN_HOUR

    def cold(self, name: str) -> tuple[float, float]:
        """Return the times of a page after all caches have expired."""
        self.clock.ahead += _STALE
        if name == "Audit log, after a new record":
            self.record()
        return self.warm(name)

    def warm(self, name: str) -> tuple[float, float]:
        """Return the time of a page, and the CPU time of all threads but this one, in ms."""
        begun, cpu = time.perf_counter(), _others_cpu()
        self.read(self.places[name])
        return 1000 * (time.perf_counter() - begun), 1000 * (_others_cpu() - cpu)


def _others_cpu() -> float:
    return time.process_time() - time.thread_time()


def measurements() -> Iterator[Measurement]:
    """Measure each page on SQLite, and on Redis those that read the state store."""
    with TemporaryDirectory() as folder, emulator(_CALLS) as api:
        redis = RedisServer(Path(folder))
        redis.start()
        try:
            audit = Path(folder) / "audit.db"
            stores = {"": f"sqlite:///{folder}/state.db", " (Redis)": redis.url}
            for suffix, store in stores.items():
                with _tab(api, calls_mcp_state_url=store, calls_mcp_audit_database=audit) as tab:
                    for name in tab.places:
                        if not suffix or name.startswith(_ON_STATE):
                            yield from _measured(tab, name, suffix)
        finally:
            redis.stop()


def _measured(tab: _Tab, name: str, suffix: str) -> Iterator[Measurement]:
    tab.prepare()
    for kind, measure in (("cold", tab.cold), ("warm", tab.warm)):
        measure(name)
        taken = [measure(name) for _ in range(_ROUNDS)]
        for what, values in zip(("time", "CPU time"), zip(*taken, strict=True), strict=True):
            title = f"{name}{suffix}, {kind}, {what}"
            yield Measurement(title, "ms", _GOAL, values, is_absolute=True)


@contextmanager
def _tab(api: str, **values: object) -> Generator[_Tab]:
    """Open a browser tab of a console with these settings, after its database is filled."""
    sids = [*islice(_newest(api), _CALLS_READ)]
    with start_blocking_portal() as portal:
        portal.call(_fill, values, sids)
        clock = _Clock()
        with (
            portal.wrap_async_context_manager(_console(api, values, clock)) as (url, link),
            httpx.Client(
                base_url=url, headers={"Origin": url}, trust_env=False, timeout=60
            ) as http,
        ):
            assert http.post("/sign-in", data={"link": link}).status_code == 200
            tab = _Tab(http, clock, _recorder(portal, values))
            tab.places = _places(tab, sids[0])
            yield tab


def _newest(api: str) -> Iterator[str]:
    """Yield the SIDs of the calls, newest first."""
    account = DEFAULT_ACCOUNT
    page = f"/2010-04-01/Accounts/{account.sid}/Calls.json?PageSize=1000"
    while page:
        answer = httpx.get(api + page, auth=(account.sid, account.auth_token), timeout=60).json()
        yield from (call["sid"] for call in answer["calls"])
        page = answer["next_page_uri"]


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
        "Audit log, search for a missing text": "/audit?text=nowhere",
        "Audit log, filter by a missing principal": "/audit?principal=nobody",
        "Audit log, filter by a day without records": "/audit?until=2001-01-01",
        "Overview": "/overview",
        "Overview, 30 days": "/overview?range=30d",
        "Policy": "/policy",
        "Operators": "/operators",
        "Audit log, after a new record": "/audit",
    }


async def _fill(values: Mapping[str, object], sids: Sequence[str]) -> None:
    """Write pending requests, and the records of approved changes, the newest about `sids`."""
    path = audit_path(load_settings(values))
    assert path
    if not path.exists():
        async with open_audit(path) as audit:
            await _record(audit, 0, "CA" + "0" * 32)
        _multiply(path, sids)
    async with open_storage(str(values["calls_mcp_state_url"])) as storage:
        for number in range(_REQUESTS):
            assert await storage.add_request(_request(number), _REQUESTS)


def _multiply(path: Path, sids: Sequence[str]) -> None:
    """Replace the records of one change by those of many, the newest of which are about `sids`."""
    with closing(sqlite3.connect(path)) as database, database:
        bodies = database.execute("SELECT body FROM audit ORDER BY seq").fetchall()
        records = [json.loads(body) for (body,) in bodies]
        for record in records:
            del record["hash"]  # `chain` computes it
        database.execute("DROP TRIGGER audit_keeps")
        database.execute("DELETE FROM audit")
        rows = _rows(records, sids, time.time())
        database.executemany("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def _rows(
    records: Sequence[Mapping[str, Json]], sids: Sequence[str], now: float
) -> Iterator[tuple[object, ...]]:
    last, changes = START, _RECORDS // len(records)
    placed = [*(f"CA{number:032x}" for number in range(changes - len(sids))), *reversed(sids)]
    for number, sid in enumerate(placed):
        new = {
            "time": timestamp(now - _WEEK * (1 - number / changes)),
            "principal": f"agent {number % _PRINCIPALS}",
            "approval_id": f"{number:016x}",
            "sid": sid,
        }
        for at, fields in enumerate(records):
            known = {name: value for name, value in new.items() if name in fields}
            identifier = f"{number:014x}{min(at, 2):02}"  # the last two are about one attempt
            record = chain({**fields, **known, "id": identifier}, last)
            names = ("seq", "time", "tool", "sid", "prev", "hash")
            yield (*map(record.fields.get, names), record.line)
            last = record.link


async def _record(audit: AuditLog, number: int, sid: str) -> None:
    """Write all records of a call that the operator approved."""
    authority = Authority("operator", "benchmarks", f"{number:016x}")
    await audit.record(_entry("asked", authority))
    await audit.record(_entry("approved", authority))
    attempt = await audit.begin(_entry("allowed", authority))
    await audit.end(attempt, Ending("done", http_status=201, sid=sid, request_id="RQ"))


def _recorder(portal: BlockingPortal, values: Mapping[str, object]) -> Callable[[], None]:
    async def record() -> None:
        async with open_audit(audit_path(load_settings(values))) as audit:
            await _record(audit, 0, "CA" + "0" * 32)

    return lambda: portal.call(record)


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
