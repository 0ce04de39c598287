"""List 10,000 calls by cursor, compared with plain GETs of pages of the same size."""

import time
from collections.abc import Iterator

import httpx

from calls_mcp.emulator import DEFAULT_ACCOUNT
from tests.benchmarks.api import emulator
from tests.benchmarks.measurement import Measurement, in_turn
from tests.benchmarks.stdio_server import OURS, UNTHROTTLED, StdioServer

_CALLS, _PAGE = 10_000, 80  # calls, of which about 86 fit in a result
_ROUNDS = 7


def measurements() -> Iterator[Measurement]:
    """Measure the time and the peak memory."""
    login = DEFAULT_ACCOUNT.sid, DEFAULT_ACCOUNT.auth_token
    with (
        emulator(_CALLS) as url,
        StdioServer(OURS, url, **UNTHROTTLED) as server,
        httpx.Client(base_url=url, auth=login) as http,
    ):
        server.call("list_calls", {"limit": 1})
        idle, most = server.memory, list[float]()

        def ours() -> float:
            begun, seen = time.perf_counter(), 0
            arguments: dict[str, object] = {"limit": _PAGE, "page_size": _PAGE}
            while True:
                listed = server.call("list_calls", arguments)
                seen += listed["count"]
                if "next_cursor" not in listed:
                    break
                arguments = {"cursor": listed["next_cursor"], "limit": _PAGE, "page_size": _PAGE}
            assert seen == _CALLS
            most.append(server.peak - idle)
            return time.perf_counter() - begun

        def plain() -> float:
            begun, seen = time.perf_counter(), 0
            link = f"/2010-04-01/Accounts/{login[0]}/Calls.json?PageSize={_PAGE}"
            while link:
                page = http.get(link).json()
                seen += len(page["calls"])
                link = page["next_page_uri"]
            assert seen == _CALLS
            return time.perf_counter() - begun

        times, references = in_turn(ours, plain, rounds=_ROUNDS)
    yield Measurement("10,000 calls page by page", "s", 1.5, times, references)
    yield Measurement("peak memory above idle", "MB", 40, most, is_absolute=True)
