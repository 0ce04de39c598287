"""The emulator's calls: the paths of a phone menu, and many calls at once.

The applications run in their own process.
"""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING

from calls_mcp.emulator import Emulator, ManualClock, Scenario, Script
from calls_mcp.emulator.scenario import Reaction
from calls_mcp.emulator.testing import RunningEmulator, running
from tests.benchmarks.measurement import Measurement
from tests.emulator.voice.phone import CALLEE, client, serving
from tests.emulator.voice.test_ivr import menu, numbers

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_ROUNDS = 5
_CALLS = 1000
_TALK = 60  # seconds
_MENU = f'<Gather numDigits="1" timeout="{_TALK}" action="/bye"><Say>Press 1.</Say></Gather>'


def measurements() -> Iterator[Measurement]:
    """Measure all paths of the menu, then concurrent calls on a stopped clock and in real time."""
    with menu() as url:
        _paths(url)
        took = [_paths(url) for _ in range(_ROUNDS)]
    yield Measurement("40 paths of a phone menu, clock stopped", "s", 1, took, is_absolute=True)
    with _application() as url:
        took = [_at_once(url) for _ in range(3)]
        yield Measurement("1,000 calls at once, clock stopped", "s", None, took, is_absolute=True)
        cpu, lags = _in_real_time(url)
    yield Measurement("CPU time of 1,000 calls in real time", "s", None, [cpu], is_absolute=True)
    for name, lag in (("median", lags[_CALLS // 2]), ("99 %", lags[_CALLS * 99 // 100])):
        text = f"from a key to the next document, {name}"
        yield Measurement(text, "s", None, [lag], is_absolute=True)


def _paths(url: str) -> float:
    emulator = Emulator(clock=ManualClock(), scenario=Scenario(numbers()), calls_per_second=100)
    with running(emulator) as api:
        started = time.perf_counter()
        _place(api, numbers(), url)
        api.advance(300)
        took = time.perf_counter() - started
        assert not any(call.live for call in api.calls)
    return took


def _at_once(url: str) -> float:
    scenario = Scenario(otherwise=_callee(_TALK / 2))
    emulator = Emulator(clock=ManualClock(), scenario=scenario, calls_per_second=1e9)
    with running(emulator) as api:
        started = time.perf_counter()
        _place(api, [CALLEE] * _CALLS, url)
        api.advance(_TALK / 4)
        _require(api, "in-progress")
        api.advance(_TALK)
        _require(api, "completed")
        return time.perf_counter() - started


def _in_real_time(url: str) -> tuple[float, list[float]]:
    """Return the CPU time, and from each key the seconds until the next document."""
    scenario = Scenario(otherwise=_callee(_TALK))
    with running(Emulator(scenario=scenario, calls_per_second=1e9)) as api:
        started = time.process_time()
        _place(api, [CALLEE] * _CALLS, url)
        busiest = 0
        while any(call.live for call in api.calls):
            busiest = max(busiest, sum(call.status == "in-progress" for call in api.calls))
            time.sleep(0.5)
        assert busiest == _CALLS, busiest
        cpu = time.process_time() - started
        return cpu, sorted(_lag(api, call.sid) for call in api.calls)


def _place(api: RunningEmulator, numbers: Iterable[str], url: str) -> None:
    with client(api) as http:
        for number in numbers:
            form = {"To": number, "From": api.number, "Url": url}
            http.post("Calls.json", data=form).raise_for_status()


def _lag(api: RunningEmulator, sid: str) -> float:
    entries = api.transcript(sid)
    (pressed,) = (each.at for each in entries if each.event == "pressed")
    _, fetched = (each.at for each in entries if each.event == "fetched")
    return fetched - pressed


def _callee(at: float) -> Script:
    return Script(reactions=(Reaction(at=at, press="1"),))


def _require(api: RunningEmulator, status: str) -> None:
    entries = (each for call in api.calls for each in api.transcript(call.sid))
    errors = {each.text for each in entries if each.event == "error"}
    assert not errors, errors
    assert {call.status for call in api.calls} == {status}


@contextmanager
def _application() -> Generator[str]:
    """Run an application with a menu of one key, and yield the URL of the menu."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def _serve(pipe: "Connection[str, None]") -> None:
    with serving() as application:
        application.says("/bye", "<Say>Thank you for your call.</Say>")
        pipe.send(application.says("/menu", _MENU))
        pipe.recv()
