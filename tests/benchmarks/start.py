"""The start, the first call of a conversation, and memory."""

import time
from collections.abc import Iterator, Sequence
from functools import partial

from tests.benchmarks.api import a_call, emulator
from tests.benchmarks.measurement import Measurement, in_turn
from tests.benchmarks.stdio_server import OURS, SMALLEST, StdioServer

_PAUSE = 1.0  # seconds that a model takes at least before it calls a tool


def measurements() -> Iterator[Measurement]:
    """Measure the start, the first call after a pause, and memory once a call was fetched."""
    with emulator() as url:
        sid = a_call(url)
        starts = [partial(_start, command, url, sid) for command in (OURS, SMALLEST)]
        ours, smallest = in_turn(*starts)
        yield Measurement("process start to fetch_call's answer", "s", 1.15, ours, smallest)
        memory: tuple[list[float], list[float]] = [], []
        firsts = [
            partial(_first_call, command, url, sid, used)
            for command, used in zip((OURS, SMALLEST), memory, strict=True)
        ]
        ours, smallest = in_turn(*firsts)
        yield Measurement("first call, 1 s after tools/list", "s", 0.5, ours, smallest)
        yield Measurement("memory after it", "MB", 1.2, *memory)


def _start(command: Sequence[str], url: str, sid: str) -> float:
    begun = time.perf_counter()
    with StdioServer(command, url) as server:
        server.request("tools/list", {})
        server.call("fetch_call", {"sid": sid})
        return time.perf_counter() - begun


def _first_call(command: Sequence[str], url: str, sid: str, memory: list[float]) -> float:
    with StdioServer(command, url) as server:
        server.request("tools/list", {})
        time.sleep(_PAUSE)
        begun = time.perf_counter()
        server.call("fetch_call", {"sid": sid})
        took = time.perf_counter() - begun
        memory.append(server.memory)
        return took
