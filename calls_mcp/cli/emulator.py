"""`calls-mcp emulator`: run the stand-in for the Calls API until a signal comes."""

import asyncio
import math
import os
import signal
import sqlite3
from argparse import ArgumentParser, Namespace
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from types import FrameType

from calls_mcp.cli.terminal import warn
from calls_mcp.emulator import Emulator, Scenario, StartError, accelerated
from calls_mcp.emulator.history import past_calls
from calls_mcp.emulator.scenario import load_scenario
from calls_mcp.errors import ConfigurationError

_DEFAULT_HISTORY = 250  # calls
_LAST_PORT = 65_535
_FASTEST = 1_000_000


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    option = parser.add_argument
    option("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    option("--port", type=int, default=4010, help="port to listen on, 0 for any (%(default)s)")
    option("--db", default=":memory:", metavar="FILE", help="keep the calls in FILE (in memory)")
    option("--speed", type=float, default=1.0, help="times as fast as real time (%(default)s)")
    option("--seed", type=int, help="which history to begin with (none)")
    option("--calls", type=int, help="how many past calls to begin with (250 if --seed is given)")
    option("--scenario", metavar="FILE", help="what the numbers do, in TOML")
    option("--cps", type=float, default=1.0, help="calls dialled per second (%(default)s)")
    option("--callbacks-anywhere", action="store_true", help="send them to other machines, too")
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Return the exit status.

    A line on stderr has the address and the credentials. A database that holds calls already gets
    no history.

    Raises:
        ConfigurationError: An option makes no sense, a file can't be used, or the emulator can't
            listen on the address.
    """
    _check(options)
    try:
        asyncio.run(_serve(_emulator(options), options))
    except StartError as error:
        raise ConfigurationError(str(error)) from error
    except sqlite3.Error as error:
        raise ConfigurationError(f"The database {options.db} can't be used: {error}") from error
    except OSError as error:
        where = f"{options.host}:{options.port}"
        raise ConfigurationError(f"The emulator can't listen on {where}: {error}") from error
    return 0


def _check(options: Namespace) -> None:
    if not options.host:
        raise ConfigurationError("--host must not be empty: 127.0.0.1 is this machine alone")
    if not 0 <= options.port <= _LAST_PORT:
        raise ConfigurationError(f"--port must be from 0 to {_LAST_PORT}, not {options.port}")
    if options.calls is not None and options.calls < 0:
        raise ConfigurationError(f"--calls must not be negative, as {options.calls} is")
    for name, rate in (("--speed", options.speed), ("--cps", options.cps)):
        if not (0 < rate <= _FASTEST and math.isfinite(rate)):
            raise ConfigurationError(f"{name} must be above 0 and at most {_FASTEST}, not {rate}")


def _emulator(options: Namespace) -> Emulator:
    return Emulator(
        host=options.host,
        port=options.port,
        database=options.db,
        clock=accelerated(options.speed),
        scenario=load_scenario(options.scenario) if options.scenario else Scenario(),
        calls_per_second=options.cps,
        callbacks_anywhere=options.callbacks_anywhere,
    )


async def _serve(emulator: Emulator, options: Namespace) -> None:
    stop = asyncio.Event()
    with _stopped_by_signals(stop):
        async with emulator:
            filling = asyncio.create_task(
                asyncio.to_thread(_fill, emulator, options.seed, options.calls)
            )
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([filling, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not filling.done():
                os._exit(0)  # a thread can't be stopped; its transaction comes to nothing
            account = emulator.account
            where = f"{emulator.base_url} account {account.sid} auth token {account.auth_token}"
            warn(f"{await filling}{where}")
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
    """Fill in the history; return a line if the database holds calls already."""
    if seed is None and calls is None:
        return ""
    length = _DEFAULT_HISTORY if calls is None else calls
    if emulator.calls.fill(past_calls(seed or 0, length, emulator.clock())):
        return ""
    return f"{emulator.database} holds calls already and stays as it is: no history was added\n"
