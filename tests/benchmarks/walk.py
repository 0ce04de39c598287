"""10,000 calls walked by cursor, beside bare paging with pages of the same size."""

import time
from collections.abc import Iterator

import httpx

from calls_mcp.emulator import DEFAULT_ACCOUNT
from tests.benchmarks.api import emulator
from tests.benchmarks.figure import Figure, in_turn
from tests.benchmarks.peer import OURS, UNTHROTTLED, Peer

_CALLS, _PAGE = 10_000, 100
_ROUNDS = 7


def figures() -> Iterator[Figure]:
    """Both figures."""
    login = DEFAULT_ACCOUNT.sid, DEFAULT_ACCOUNT.auth_token
    with (
        emulator(_CALLS) as url,
        Peer(OURS, url, **UNTHROTTLED) as peer,
        httpx.Client(base_url=url, auth=login) as http,
    ):
        peer.call("list_calls", {"limit": 1})
        idle, most = peer.memory, list[float]()

        def walk() -> float:
            begun, seen = time.perf_counter(), 0
            arguments: dict[str, object] = {"limit": _PAGE, "page_size": _PAGE}
            while True:
                told = peer.call("list_calls", arguments)
                seen += told["count"]
                if "next_cursor" not in told:
                    break
                arguments = {"cursor": told["next_cursor"], "limit": _PAGE, "page_size": _PAGE}
            assert seen == _CALLS
            most.append(peer.peak - idle)
            return time.perf_counter() - begun

        def page() -> float:
            begun, seen = time.perf_counter(), 0
            link = f"/2010-04-01/Accounts/{login[0]}/Calls.json?PageSize={_PAGE}"
            while link:
                told = http.get(link).json()
                seen += len(told["calls"])
                link = told["next_page_uri"]
            assert seen == _CALLS
            return time.perf_counter() - begun

        walks, pages = in_turn(walk, page, rounds=_ROUNDS)
    yield Figure("10,000 calls page by page, to bare paging", "s", 1.5, walks, pages)
    yield Figure("peak memory of all walks, above idle", "MB", 40, most, is_absolute=True)
