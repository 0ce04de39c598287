"""The time of validation, policy and claiming a confirmation for a new call, on each store."""

import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import cast

import anyio
import httpx

from calls_mcp.service.invocation import Invoker
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from calls_mcp.tools.catalog import Json, load_operations
from calls_mcp.tools.outcome import Caller
from calls_mcp.tools.validation import validate
from tests.benchmarks.api import emulator
from tests.benchmarks.measurement import Measurement, in_turn
from tests.harness import ACCOUNT, PERMISSIVE, access_to, placing
from tests.storage.redis_server import RedisServer
from tests.telemetry import Recording, recording

_TIMES = 20  # in a round
_CALLER = Caller("benchmarks", can_ask=False)
_AWAY = 0.1  # seconds that an API over a network takes at least; the emulator takes 2 ms


def measurements() -> Iterator[Measurement]:
    """Measure each store, and Redis also compared with memory."""
    with TemporaryDirectory() as folder, emulator() as url:
        redis = RedisServer(Path(folder))
        redis.start()
        try:
            stores = ("memory:", f"sqlite:///{folder}/state.db", redis.url)
            guards = [_measure(partial(_guard, url, each, Path(folder))) for each in stores]
            memory, sqlite, other, requests = in_turn(*guards, _measure(partial(_request, url)))
        finally:
            redis.stop()
    yield Measurement("guard on memory, to a request 100 ms away", "s", 0.05, memory, requests)
    yield Measurement("guard on SQLite, to a request 100 ms away", "s", 0.05, sqlite, requests)
    more = [1000 * (a - b) for a, b in zip(other, memory, strict=True)]
    yield Measurement("guard on Redis, more than on memory", "ms", 1, more, is_absolute=True)


def _measure(take: Callable[[], Awaitable[float]]) -> Callable[[], float]:
    return lambda: anyio.run(take)


async def _guard(url: str, store: str, folder: Path) -> float:
    """Return the seconds that the guard of a confirmed call takes."""
    settings = load_settings(
        {
            "calls_mcp_state_url": store,
            "calls_mcp_policy": PERMISSIVE,
            "calls_mcp_audit_database": folder / "audit.db",
        }
    )
    with recording() as seen:
        async with Runtime(settings, access_to(url)) as runtime, runtime.invoker() as invoker:
            await _confirm(invoker, seen)  # warm up
            return median([await _confirm(invoker, seen) for _ in range(_TIMES)])


async def _confirm(invoker: Invoker, seen: Recording) -> float:
    operation = load_operations()["create_call"]
    arguments = cast("dict[str, Json]", placing())
    asked = await invoker.invoke(operation, arguments, _CALLER)
    assert asked.confirmation, asked
    token = asked.confirmation.token
    confirmed = {**arguments, "confirmation_token": token}
    seen.exporter.clear()
    done = await invoker.invoke(operation, confirmed, _CALLER)
    assert done.outcome == "done", done
    (guard,) = seen.named("guard")
    begun = time.perf_counter()
    validate(operation, confirmed)
    validation = time.perf_counter() - begun
    return validation + ((guard.end_time or 0) - (guard.start_time or 0)) / 1e9


async def _request(url: str) -> float:
    """Return the seconds of the request itself, with a remote API."""
    account = access_to(url)
    form = {key.capitalize(): str(value) for key, value in placing().items()}
    async with httpx.AsyncClient(auth=(account.username, account.password)) as http:
        begun = time.perf_counter()
        await anyio.sleep(_AWAY)
        await http.post(f"{url}/2010-04-01/Accounts/{ACCOUNT}/Calls.json", data=form)
        return time.perf_counter() - begun
