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
from calls_mcp.emulator.errors import StartError
from calls_mcp.emulator.history import past_calls
from calls_mcp.emulator.scenario import load_scenario
from calls_mcp.emulator.scripts import Scenario
from calls_mcp.emulator.server import Emulator

DEFAULT_HISTORY = 250
LAST_PORT = 65_535
FASTEST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the program is told to do.

    Attributes:
        host: The address to listen on.
        port: The port to listen on, 0 for any free one.
        database: A SQLite file, or `:memory:`.
        speed: How many times as fast as real time the calls live.
        seed: Which history to start with (0 if only `calls` is given).
        calls: How long that history is (250 calls if only `seed` is given). A database that
            holds calls already is left as it is.
        scenario: A TOML file that says what the destinations do.
        calls_per_second: How many calls the account dials.
        callbacks_anywhere: Send callbacks to other machines, too.
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
        """Refuse values that make no sense.

        Raises:
            StartError: One of them does not.
        """
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
    """Serve until SIGINT or SIGTERM; one line on stderr says where and with what credentials.

    Returns:
        The exit status, 0.

    Raises:
        StartError: An option makes no sense, a file can't be used, the address can't be
            listened on.
    """
    options.check()
    scenario = load_scenario(options.scenario) if options.scenario else Scenario()
    emulator = Emulator(
        host=options.host,
        port=options.port,
        database=options.database,
        clock=accelerated(options.speed),
        scenario=scenario,
        calls_per_second=options.calls_per_second,
        callbacks_anywhere=options.callbacks_anywhere,
    )
    try:
        asyncio.run(serve_forever(emulator, seed=options.seed, calls=options.calls))
    except sqlite3.Error as error:
        raise StartError(f"The database {options.database} can't be used: {error}") from error
    except OSError as error:
        where = f"{options.host}:{options.port}"
        raise StartError(f"The emulator can't listen on {where}: {error}") from error
    return 0


async def serve_forever(
    emulator: Emulator, *, seed: int | None = None, calls: int | None = None
) -> None:
    """Serve until SIGINT or SIGTERM, in the main thread; the arguments are those of `Options`."""
    stop = asyncio.Event()
    with _stopped_by_signals(stop):
        async with emulator:
            filling = asyncio.create_task(asyncio.to_thread(_fill, emulator, seed, calls))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([filling, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not filling.done():
                os._exit(0)  # a thread can't be stopped; its transaction comes to nothing
            sys.stderr.write(f"{await filling}{_announcement(emulator)}")
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
            previous = signal.signal(number, handle)
            stack.callback(signal.signal, number, previous)
        yield


def _fill(emulator: Emulator, seed: int | None, calls: int | None) -> str:
    """Fill in the history; a line about it if there is something to tell."""
    if seed is None and calls is None:
        return ""
    length = DEFAULT_HISTORY if calls is None else calls
    if emulator.calls.fill(past_calls(seed or 0, length, emulator.clock())):
        return ""
    return f"{emulator.database} holds calls already and stays as it is: no history was added\n"


def _announcement(emulator: Emulator) -> str:
    account = emulator.account
    return f"{emulator.base_url} account {account.sid} auth token {account.auth_token}\n"
