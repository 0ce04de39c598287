"""fetch_call over HTTP by many clients, compared with the smallest server."""

from collections.abc import Iterator
from functools import partial

from tests.benchmarks.api import a_call, emulator
from tests.benchmarks.measurement import Measurement, in_turn
from tests.benchmarks.service import (
    OURS,
    SMALLEST,
    Service,
    fetching,
    in_parallel,
    repeat,
    serving,
)

_CLIENTS, _EACH = 64, 20
_ROUNDS = 7
_MANY, _WARM = 100_000, 60_000


def measurements() -> Iterator[Measurement]:
    """Measure the time of many clients, and the memory after many requests."""
    with emulator() as api, serving(OURS, api) as ours, serving(SMALLEST, api) as smallest:
        sid = a_call(api)
        pace = [partial(_seconds, each, sid, _CLIENTS * _EACH) for each in (ours, smallest)]
        mine, theirs = in_turn(*pace, rounds=_ROUNDS)
        yield Measurement("fetch_call over HTTP by 64 clients", "s", 1.0, mine, theirs)
        _seconds(ours, sid, _WARM)  # caches, and a minute of rates
        before = ours.memory
        _seconds(ours, sid, _MANY)
        grown = [ours.memory / before]
    yield Measurement("memory after 100,000 more requests", "times", 1.05, grown, is_absolute=True)


def _seconds(service: Service, sid: str, requests: int) -> float:
    request = fetching(service.port, sid)
    return in_parallel(_CLIENTS, lambda _: repeat(service.port, request, requests // _CLIENTS))
