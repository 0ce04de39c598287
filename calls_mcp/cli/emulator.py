"""`calls-mcp emulator`: run an emulator of the Calls API until a signal comes."""

import asyncio
import os
import re
import sqlite3
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from calls_mcp.cli.options import add_json
from calls_mcp.cli.terminal import progress, show_json, warn
from calls_mcp.emulator import (
    DEFAULT_ACCOUNT,
    Account,
    Emulator,
    Scenario,
    StartError,
    accelerated,
    past_calls,
)
from calls_mcp.emulator.call_lifecycle import Call
from calls_mcp.emulator.scenario import load_scenario
from calls_mcp.errors import ConfigurationError
from calls_mcp.observability import stderr
from calls_mcp.service.signals import handled_by

_EPILOG = """\
examples:
  calls-mcp emulator
  calls-mcp emulator --port 4010 --seed 1 --calls 200 --speed 10
  calls-mcp emulator --db calls.db --scenario scenario.toml

It prints its URL and its default credentials to stderr. It never prints --auth-token or --api-key.
No phone rings. Without --callbacks-anywhere, nothing leaves this machine.
Its control API moves the clock and injects faults: see docs/emulator.md.
--seed and --calls can be used together; --seed alone adds 250 calls, --calls alone uses seed 0.

exit status:
  0  stopped by a signal
  2  usage error, or a file or address can't be used
"""
_DEFAULT_HISTORY = 250  # calls
_LAST_PORT = 65_535
_FASTEST = 1_000_000
_SPEED = "run the clock X times as fast; with 0, only the control API moves it"


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    option = parser.add_argument
    option("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    option(
        "--port",
        type=int,
        default=4010,
        help="port to listen on; 0 selects a free port (default: %(default)s)",
    )
    option("--db", default=":memory:", metavar="FILE", help="keep the calls in FILE")
    option("--speed", type=float, default=1.0, metavar="X", help=_SPEED)
    option("--calls", type=int, metavar="N", help="start with N past calls")
    option("--seed", type=int, metavar="N", help="random seed for the past calls")
    option("--scenario", metavar="FILE", help="TOML file that says what each phone number does")
    option("--cps", type=float, default=1.0, metavar="N", help="dial N calls a second (default: 1)")
    option(
        "--callbacks-anywhere",
        action="store_true",
        help="request TwiML from other machines, too, and send them callbacks",
    )
    option("--account", metavar="SID", help="account SID (default: AC and 32 zeros)")
    option("--auth-token", metavar="TOKEN", help="auth token (default: emulator)")
    option(
        "--api-key",
        action="append",
        default=[],
        metavar="SID:SECRET",
        help="accept this API key, too; can be repeated",
    )
    option("--strict", action="store_true", help="refuse unknown parameters, which Twilio ignores")
    add_json(parser, "the URL and the credentials")
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Return the exit status.

    A line on stderr has the URL and the credentials. A database that already has calls gets no
    history.

    Raises:
        ConfigurationError: An option is wrong, a file can't be used, or the emulator can't listen
            on the address.
    """
    stderr.never_block()
    if wrong := [*_faults(options)]:
        raise ConfigurationError(" ".join(wrong))
    try:
        asyncio.run(_serve(_emulator(options), options))
    except StartError as error:
        raise ConfigurationError(str(error)) from error
    except sqlite3.Error as error:
        reason = "another emulator uses it" if "locked" in str(error) else error
        raise ConfigurationError(f"The database {options.db} can't be used: {reason}") from error
    except OSError as error:
        where = f"{options.host}:{options.port}"
        raise ConfigurationError(f"Cannot listen on {where}: {_reason(error)}.") from error
    return 0


def _reason(error: OSError) -> str:
    """Return the reason in the operating system's words, without those that Python adds."""
    return (error.strerror or str(error)).partition(" (while ")[0]


def _faults(options: Namespace) -> Iterator[str]:
    """Yield what is wrong with the options, without secrets."""
    if not options.host:
        yield "--host must be an address, such as 127.0.0.1."
    if not 0 <= options.port <= _LAST_PORT:
        yield f"--port must be 0 to {_LAST_PORT}; got {options.port}."
    if options.calls is not None and options.calls < 0:
        yield f"--calls must be 0 or more; got {options.calls}."
    if not 0 <= options.speed <= _FASTEST:
        yield f"--speed must be 0 to {_FASTEST}; got {options.speed}."
    if not 0 < options.cps <= _FASTEST:
        yield f"--cps must be more than 0, up to {_FASTEST}; got {options.cps}."
    account = _account(options)
    if not re.fullmatch("AC[0-9a-fA-F]{32}", account.sid):
        yield "--account must be AC and 32 hexadecimal digits."
    if not account.auth_token:
        yield "--auth-token must not be empty."
    keys = account.api_keys.items()
    if not all(re.fullmatch("SK[0-9a-fA-F]{32}", key) and secret for key, secret in keys):
        yield "--api-key must be SK and 32 hexadecimal digits, :, and a secret."


def _account(options: Namespace) -> Account:
    """Return the account with the given credentials."""
    sid = DEFAULT_ACCOUNT.sid if options.account is None else options.account
    token = DEFAULT_ACCOUNT.auth_token if options.auth_token is None else options.auth_token
    keys = (key.partition(":") for key in options.api_key)
    return Account(sid, token, {key: secret for key, _, secret in keys})


def _emulator(options: Namespace) -> Emulator:
    return Emulator(
        account=_account(options),
        host=options.host,
        port=options.port,
        database=options.db,
        clock=accelerated(options.speed),
        scenario=load_scenario(options.scenario) if options.scenario else Scenario(),
        calls_per_second=options.cps,
        callbacks_anywhere=options.callbacks_anywhere,
        strict=options.strict,
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
                os._exit(0)  # a thread can't be stopped; its transaction is rolled back
            if not await filling:
                warn(f"{emulator.database} already has calls, so no past calls were added.")
            _tell(emulator, shows_token=options.auth_token is None, as_json=options.json)
            await stopping


def _tell(emulator: Emulator, *, shows_token: bool, as_json: bool) -> None:
    """Print where the emulator is, and its own credentials."""
    url, account = emulator.base_url, emulator.account
    token = {"auth_token": account.auth_token} if shows_token else {}
    if as_json:
        show_json({"base_url": url, "account_sid": account.sid, **token})
    else:
        text = f", auth token {account.auth_token}" if shows_token else ""
        warn(f"{url} (account SID {account.sid}{text})")


@contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Generator[None]:
    loop = asyncio.get_running_loop()

    def handle(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop.set)

    with handled_by(handle):
        yield


def _fill(emulator: Emulator, seed: int | None, calls: int | None) -> bool:
    """Add past calls if that was asked for. Return False if the database already has calls."""
    if seed is None and calls is None:
        return True
    length = _DEFAULT_HISTORY if calls is None else calls
    with progress("past calls") as show:
        history = past_calls(seed or 0, length, emulator.clock())
        return emulator.calls.fill(_counted(history, show))


def _counted(calls: Iterable[Call], show: Callable[[int], None]) -> Iterator[Call]:
    for count, call in enumerate(calls, 1):
        yield call
        show(count)
