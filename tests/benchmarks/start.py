"""From the spawning of a server to its answer to tools/list."""

import time
from collections.abc import Iterator, Sequence
from functools import partial

from tests.benchmarks.figure import Figure, in_turn
from tests.benchmarks.peer import OURS, SMALLEST, Peer


def figures() -> Iterator[Figure]:
    """The figure."""
    ours, smallest = in_turn(partial(_start, OURS), partial(_start, SMALLEST))
    yield Figure("start to tools/list, to the smallest server", "s", 1.15, ours, smallest)


def _start(command: Sequence[str]) -> float:
    begun = time.perf_counter()
    with Peer(command) as peer:
        peer.request("tools/list", {})
        return time.perf_counter() - begun
