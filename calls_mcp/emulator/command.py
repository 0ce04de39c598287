"""The emulator as a program."""

import asyncio
import math
import os
import signal
import sqlite3
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

from calls_mcp.emulator.clock import accelerated
from calls_mcp.emulator.emulator import Emulator
from calls_mcp.emulator.history import past_calls
from calls_mcp.emulator.scenario import Scenario, StartError, load_scenario

DEFAULT_HISTORY = 250
LAST_PORT = 65_535
FASTEST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `calls-mcp emulator`, which its `--help` explains.

    `seed` is 0 if only `calls` is given, and `calls` 250 if only `seed` is. A database that holds
    calls already gets no history.
    """

    host: str = "127.0.0.1"
    port: int = 4010
    database: str = ":memory:"
    speed: float = 1
    seed: int | None = None
    calls: int | None = None
    scenario: str | None = None
    calls_per_second: float = 1
    callbacks_anywhere: bool = False

    def check(self) -> None:
        """Raise StartError for an option that makes no sense."""
        if not self.host:
            raise StartError("--host must not be empty: 127.0.0.1 is this machine alone")
        if not 0 <= self.port <= LAST_PORT:
            raise StartError(f"--port must be from 0 to {LAST_PORT}, not {self.port}")
        if self.calls is not None and self.calls < 0:
            raise StartError(f"--calls must not be negative, as {self.calls} is")
        for name, rate in (("--speed", self.speed), ("--cps", self.calls_per_second)):
            if not (0 < rate <= FASTEST and math.isfinite(rate)):
                raise StartError(f"{name} must be above 0 and at most {FASTEST}, not {rate}")


def run(options: Options) -> int:
    """Serve until SIGINT or SIGTERM; a line on stderr has the address and the credentials.

    Returns:
        The exit status, 0.

    Raises:
        StartError: An option makes no sense, a file cannot be used, or the emulator cannot
            listen on the address.
    """
    options.check()
    emulator = Emulator(
        host=options.host,
        port=options.port,
        database=options.database,
        clock=accelerated(options.speed),
        scenario=load_scenario(options.scenario) if options.scenario else Scenario(),
        calls_per_second=options.calls_per_second,
        callbacks_anywhere=options.callbacks_anywhere,
    )
    try:
        asyncio.run(_serve(emulator, options.seed, options.calls))
    except sqlite3.Error as error:
        raise StartError(f"The database {options.database} can't be used: {error}") from error
    except OSError as error:
        where = f"{options.host}:{options.port}"
        raise StartError(f"The emulator can't listen on {where}: {error}") from error
    return 0


async def _serve(emulator: Emulator, seed: int | None, calls: int | None) -> None:
    stop = asyncio.Event()
    with _stopped_by_signals(stop):
        async with emulator:
            filling = asyncio.create_task(asyncio.to_thread(_fill, emulator, seed, calls))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([filling, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not filling.done():
                os._exit(0)  # a thread can't be stopped; its transaction comes to nothing
            account = emulator.account
            where = f"{emulator.base_url} account {account.sid} auth token {account.auth_token}"
            sys.stderr.write(f"{await filling}{where}\n")
            sys.stderr.flush()
            await stopping


@contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Generator[None]:
    # not loop.add_signal_handler: Windows has none
    loop = asyncio.get_running_loop()

    def handle(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop.set)

    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, handle))
        yield


def _fill(emulator: Emulator, seed: int | None, calls: int | None) -> str:
    """Fill in the history; returns a line if there was none to fill in."""
    if seed is None and calls is None:
        return ""
    length = DEFAULT_HISTORY if calls is None else calls
    if emulator.calls.fill(past_calls(seed or 0, length, emulator.clock())):
        return ""
    return f"{emulator.database} holds calls already and stays as it is: no history was added\n"
