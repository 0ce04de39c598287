"""fetch_call over stdio, beside a bare GET of the same call and an empty call of a tool."""

import time
from collections.abc import Callable, Iterator
from statistics import median, quantiles

import httpx

from calls_mcp.emulator import DEFAULT_ACCOUNT
from tests.benchmarks.figure import Figure, in_turn
from tests.benchmarks.peer import OURS, SMALLEST, UNTHROTTLED, Peer
from tests.benchmarks.upstream import emulator

_TIMES = 100  # in a round


def figures() -> Iterator[Figure]:
    """Both figures."""
    login = DEFAULT_ACCOUNT.sid, DEFAULT_ACCOUNT.auth_token
    with (
        emulator() as url,
        Peer(OURS, url, **UNTHROTTLED) as ours,
        Peer(SMALLEST) as smallest,
        httpx.Client(base_url=f"{url}/2010-04-01/Accounts/{login[0]}", auth=login) as http,
    ):
        sid = http.get("/Calls.json?PageSize=1").json()["calls"][0]["sid"]
        tails: list[tuple[float, float]] = []

        def fetch() -> float:
            times = _timed(lambda: ours.call("fetch_call", {"sid": sid}))
            middle = median(times)
            tails.append((quantiles(times, n=100)[98], middle))
            return middle

        def bare() -> float:
            get = _timed(lambda: http.get(f"/Calls/{sid}.json").json())
            return median(get) + median(_timed(lambda: smallest.call("nothing", {})))

        fetches, bares = in_turn(fetch, bare)
    yield Figure("fetch_call p50, to a GET and an empty call", "s", 1.1, fetches, bares)
    worst, middles = zip(*tails, strict=True)
    yield Figure("fetch_call p99, to its p50", "s", 2.5, worst, middles)


def _timed(act: Callable[[], object]) -> list[float]:
    times: list[float] = []
    for _ in range(_TIMES):
        begun = time.perf_counter()
        act()
        times.append(time.perf_counter() - begun)
    return times
