"""A pytest fixture: `from calls_mcp.emulator.testing import calls_api`."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from calls_mcp.emulator import Call, Emulator, Fault, LoggedRequest, ManualClock
from calls_mcp.emulator.scenario import ORDINARY, Reaction, Script
from calls_mcp.emulator.transcripts import TranscriptEntry

__all__ = ["Fault", "Reaction", "RunningEmulator", "Script", "calls_api", "running"]


@dataclass(frozen=True)
class RunningEmulator:
    """An emulator that runs in its own thread.

    Attributes:
        emulator: The emulator.
        portal: Runs functions in that thread.
    """

    emulator: Emulator
    portal: BlockingPortal

    @property
    def base_url(self) -> str:
        """The URL of the API, such as `http://127.0.0.1:40123`."""
        return self.emulator.base_url

    @property
    def account_sid(self) -> str:
        """The SID of the account."""
        return self.emulator.account.sid

    @property
    def auth_token(self) -> str:
        """The auth token of the account."""
        return self.emulator.account.auth_token

    @property
    def number(self) -> str:
        """A number of the account, for `From`."""
        return next(iter(self.emulator.own_numbers))

    @property
    def calls(self) -> tuple[Call, ...]:
        """All calls, newest first."""
        return self.emulator.calls.all()

    @property
    def requests(self) -> tuple[LoggedRequest, ...]:
        """The requests to the API, oldest first."""
        return self.emulator.requests

    def advance(self, seconds: float) -> None:
        """Advance the clock, and run everything that is due on the way, in order."""
        self.portal.call(self.emulator.advance, seconds)

    def transcript(self, sid: str) -> tuple[TranscriptEntry, ...]:
        """Return what happened in a call, oldest entry first."""
        return self.emulator.calls.transcripts.of(sid)

    def heard(self, sid: str) -> list[str]:
        """Return what the instructions of a call said to the other party, oldest first."""
        return [entry.text for entry in self.transcript(sid) if entry.event == "said"]

    def script(self, to: str, script: Script) -> None:
        """Define what a number does in the calls from now on."""
        self.emulator.scenario.define(to, script)

    def ring(self, to: str, from_: str, caller: Script = ORDINARY) -> str:
        """Call a number of the account from outside, and return the SID of the inbound call.

        Raises:
            ApiError: The scenario has no `voice_url` for the number.
        """
        sid = self.emulator.ring(to, from_, caller)
        self.advance(0)
        return sid

    def press(self, sid: str, keys: str) -> None:
        """Let the other party of a call in progress press keys."""
        self._react(sid, Reaction(at=0, press=keys))

    def say(self, sid: str, text: str) -> None:
        """Let the other party of a call in progress say something."""
        self._react(sid, Reaction(at=0, say=text))

    def hang_up(self, sid: str) -> None:
        """Let the other party of a call hang up."""
        self._react(sid, Reaction(at=0, hang_up=True))

    def _react(self, sid: str, reaction: Reaction) -> None:
        self.emulator.react(sid, reaction)
        self.advance(0)

    def fail(self, fault: Fault) -> None:
        """Make requests fail: the next one, or as many as `fault.requests`."""
        self.emulator.faults.add(fault)

    def reset(self) -> None:
        """Delete all calls, requests and faults, and reset the clock."""
        self.emulator.reset()

    def wait_for_callbacks(self, seconds: float = 10) -> None:
        """Wait until every callback that is due has been sent.

        Raises:
            TimeoutError: A callback is still due after `seconds` of real time.
        """
        if not self.emulator.calls.callbacks.wait(seconds):
            raise TimeoutError(f"callbacks are still due after {seconds:g} s")


@contextmanager
def running(emulator: Emulator) -> Generator[RunningEmulator]:
    """Run an emulator in a thread while the context is open."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(emulator):
        yield RunningEmulator(emulator, portal)


@pytest.fixture
def calls_api() -> Generator[RunningEmulator]:
    """Provide a new emulator, for sync and async tests."""
    clock = ManualClock(float(int(time.time())))
    with running(Emulator(clock=clock)) as emulator:
        yield emulator
