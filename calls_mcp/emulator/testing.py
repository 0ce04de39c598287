"""An emulator for your own tests: `from calls_mcp.emulator.testing import calls_api`."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from anyio.from_thread import start_blocking_portal

from calls_mcp.emulator import Call, Emulator, Fault, LoggedRequest, ManualClock

__all__ = ["Fault", "RunningEmulator", "calls_api", "running"]


@dataclass(frozen=True)
class RunningEmulator:
    """An emulator in a thread of its own.

    Attributes:
        emulator: The emulator.
        clock: Its clock, which stands still until it is advanced.
    """

    emulator: Emulator
    clock: ManualClock

    @property
    def base_url(self) -> str:
        """Its address, such as `http://127.0.0.1:40123`."""
        return self.emulator.base_url

    @property
    def account_sid(self) -> str:
        """The SID of its account."""
        return self.emulator.account.sid

    @property
    def auth_token(self) -> str:
        """The auth token of its account."""
        return self.emulator.account.auth_token

    @property
    def number(self) -> str:
        """A number of the account, to call from."""
        return next(iter(self.emulator.own_numbers))

    @property
    def calls(self) -> tuple[Call, ...]:
        """All calls, newest first."""
        return self.emulator.calls.all()

    @property
    def requests(self) -> tuple[LoggedRequest, ...]:
        """The requests it has answered, oldest first."""
        return self.emulator.requests

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    def fail(self, fault: Fault) -> None:
        """Make requests fail: the next one, or as many as the fault says."""
        self.emulator.faults.add(fault)

    def reset(self) -> None:
        """Forget every call, request and fault."""
        self.emulator.reset()

    def wait_for_callbacks(self, seconds: float = 10) -> None:
        """Wait until every callback that is due has been sent.

        Raises:
            TimeoutError: One has not been sent after so many seconds of real time.
        """
        if not self.emulator.calls.wait_for_callbacks(seconds):
            raise TimeoutError(f"callbacks are still to be sent after {seconds:g} s")


@contextmanager
def running(emulator: Emulator) -> Generator[Emulator]:
    """Run an emulator in a thread while the context is open."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(emulator):
        yield emulator


@pytest.fixture
def calls_api() -> Generator[RunningEmulator]:
    """A new emulator, for sync and async test code alike."""
    clock = ManualClock(float(int(time.time())))
    with running(Emulator(clock=clock)) as emulator:
        yield RunningEmulator(emulator, clock)
