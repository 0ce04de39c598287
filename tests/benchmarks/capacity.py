"""The capacity of one process by CPU time: the source of the table in docs/deployment.md."""

import re
import socket
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

from tests.benchmarks.api import a_call, emulator
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.service import (
    OURS,
    Service,
    cpu_seconds,
    fetching,
    in_parallel,
    invoke,
    open_session,
    repeat,
    serving,
)
from tests.harness import placing
from tests.storage.redis_server import RedisServer

_ROUNDS = 3
_READS, _CHANGES, _SESSIONS = 2000, 200, 500
_CLIENTS = 8
_STATISTICS = ("total_commands_processed", "used_memory")


def measurements() -> Iterator[Measurement]:
    """Measure reads, changes on SQLite and on Redis, and sessions."""
    with TemporaryDirectory() as name, emulator() as api, _redis(Path(name)) as server:
        sid = a_call(api)
        sqlite = f"sqlite:///{name}/state.db"
        with serving(OURS, api, CALLS_MCP_STATE_URL=sqlite) as service:
            yield from _reads("SQLite", service, sid)
            yield from _changes("SQLite", service)
            yield from _sessions(service)
        audit = f"{name}/audit.db"
        with serving(
            OURS, api, CALLS_MCP_STATE_URL=server.url, CALLS_MCP_AUDIT_DATABASE=audit
        ) as service:
            yield from _reads("Redis", service, sid)
            yield from _changes("Redis", service)
            yield from _redis_load(service, server, sid)


def _reads(store: str, service: Service, sid: str) -> Iterator[Measurement]:
    per_core = list[float]()
    for _ in range(_ROUNDS):
        before = service.cpu_seconds
        _fetch(service, sid)
        per_core.append(_READS / (service.cpu_seconds - before))
    yield _measured(f"reads per second and core, {store}", "1/s", per_core)


def _changes(store: str, service: Service) -> Iterator[Measurement]:
    """Measure new calls, each asked for and then confirmed with its token."""
    per_core, per_second = list[float](), list[float]()
    _place(service)
    for _ in range(_ROUNDS):
        before = service.cpu_seconds
        took = _place(service)
        per_core.append(_CHANGES / (service.cpu_seconds - before))
        per_second.append(_CHANGES / took)
    yield _measured(f"confirmed calls per second and core, {store}", "1/s", per_core)
    yield _measured(f"confirmed calls per second, {store}", "1/s", per_second)


def _sessions(service: Service) -> Iterator[Measurement]:
    before = service.memory

    async def connect(_number: int) -> None:
        async with httpx.AsyncClient() as http:
            for _ in range(_SESSIONS // _CLIENTS):
                await open_session(http, service.port)

    in_parallel(_CLIENTS, connect)
    yield _measured("memory per open session", "kB", [(service.memory - before) * 1000 / _SESSIONS])
    yield _measured("memory of a process that has served", "MB", [before])


def _redis_load(service: Service, server: RedisServer, sid: str) -> Iterator[Measurement]:
    """Measure the load of reads and new calls on Redis."""
    assert server.process
    process = psutil.Process(server.process.pid)
    loads = (
        ("read", _READS, lambda: _fetch(service, sid)),
        ("call", _CHANGES, lambda: _place(service)),
    )
    for name, times, load in loads:
        before, used = _statistics(server), cpu_seconds(process)
        load()
        after, busy = _statistics(server), cpu_seconds(process) - used
        commands, kilobytes = ((b - a) / times for a, b in zip(before, after, strict=True))
        yield _measured(f"Redis commands per {name}", "", [commands])
        yield _measured(f"Redis memory per {name}", "kB", [kilobytes])
        yield _measured(f"{name}s per second on one Redis", "1/s", [times / max(0.01, busy)])


def _fetch(service: Service, sid: str) -> None:
    request = fetching(service.port, sid)
    in_parallel(_CLIENTS, lambda _: repeat(service.port, request, _READS // _CLIENTS))


def _place(service: Service) -> float:
    """Return the seconds that it takes to place many calls, each with its confirmation."""

    async def place(number: int) -> None:
        async with httpx.AsyncClient() as http:
            for index in range(_CHANGES // _CLIENTS):
                arguments = placing(to=f"+1202555{number:02}{index:02}")
                asked = await invoke(http, service.port, "create_call", arguments)
                token = {"confirmation_token": asked["confirmation"]["token"]}
                done = await invoke(http, service.port, "create_call", arguments | token)
                assert done["outcome"] == "done", done

    return in_parallel(_CLIENTS, place)


@contextmanager
def _redis(folder: Path) -> Generator[RedisServer]:
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _statistics(server: RedisServer) -> tuple[float, float]:
    """Return the commands that it has processed, and its memory in kB."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"INFO\r\nQUIT\r\n")
        told = connection.makefile("r", encoding="utf-8").read()
    commands, memory = (
        int(found[1]) for name in _STATISTICS if (found := re.search(rf"{name}:(\d+)", told))
    )
    return commands, memory / 1000


def _measured(name: str, unit: str, values: list[float]) -> Measurement:
    return Measurement(name, unit, None, values, is_absolute=True)
