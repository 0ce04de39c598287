"""fetch_call on stdio, compared with the smallest server."""

import time
from collections.abc import Iterator
from statistics import median, quantiles

from tests.benchmarks.api import a_call, delay, emulator
from tests.benchmarks.measurement import Measurement, in_turn
from tests.benchmarks.stdio_server import OURS, SMALLEST, UNTHROTTLED, StdioServer

_TIMES = 200  # in a round
_TIMES_AWAY, _AWAY = 10, 0.1  # seconds that an API over a network takes at least


def measurements() -> Iterator[Measurement]:
    """Measure the median and the 99th percentile, and the median with the API far away."""
    with (
        emulator() as url,
        StdioServer(OURS, url, **UNTHROTTLED) as ours,
        StdioServer(SMALLEST, url) as smallest,
    ):
        sid = a_call(url)
        tails: tuple[list[float], list[float]] = [], []

        def fetch(server: StdioServer, tail: list[float]) -> float:
            times = _timed(server, sid, _TIMES)
            tail.append(quantiles(times, n=100)[98])
            return median(times)

        mine, theirs = in_turn(lambda: fetch(ours, tails[0]), lambda: fetch(smallest, tails[1]))
        yield Measurement("fetch_call, p50", "s", 0.95, mine, theirs)
        yield Measurement("fetch_call, p99", "s", 1.0, *tails)
        delay(url, _AWAY)
        mine, theirs = in_turn(
            lambda: median(_timed(ours, sid, _TIMES_AWAY)),
            lambda: median(_timed(smallest, sid, _TIMES_AWAY)),
        )
        yield Measurement("fetch_call, p50, API 100 ms away", "s", 1.01, mine, theirs)


def _timed(server: StdioServer, sid: str, times: int) -> list[float]:
    taken: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        server.call("fetch_call", {"sid": sid})
        taken.append(time.perf_counter() - begun)
    return taken
