"""The emulator as a running server."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Collection, Generator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Self, cast

import uvicorn
from starlette.types import ASGIApp

from calls_mcp.emulator.account import DEFAULT_ACCOUNT, Account
from calls_mcp.emulator.api import CallsApi, application
from calls_mcp.emulator.clock import Clock, accelerated
from calls_mcp.emulator.history import seed_history
from calls_mcp.emulator.journal import Entry, Journal
from calls_mcp.emulator.scripts import VALID_FROM
from calls_mcp.emulator.store import CallStore

OWN_NUMBERS = (VALID_FROM, "+15005550100")
DEFAULT_HISTORY = 250
GRACE_SECONDS = 2


@dataclass(kw_only=True)
class Emulator:
    """A stand-in for the Calls API, served on a socket while the context is open.

    ```python
    async with Emulator() as emulator:
        httpx.AsyncClient(base_url=emulator.base_url, auth=(account.sid, account.auth_token))
    ```

    Attributes:
        account: The account it serves, with its credentials.
        database: A SQLite file that outlives it, or `:memory:`.
        host: The address to listen on.
        port: The port to listen on, 0 for any free one.
        clock: Tells the time, in seconds since the epoch.
        own_numbers: The numbers of the account: calls come from them, and a call to one of
            them leaves an inbound record, too.
        any_from: Let a call come from any number.
    """

    account: Account = DEFAULT_ACCOUNT
    database: str = ":memory:"
    host: str = "127.0.0.1"
    port: int = 0
    clock: Clock = field(default_factory=lambda: accelerated(1))
    own_numbers: Collection[str] = OWN_NUMBERS
    any_from: bool = False
    _journal: Journal = field(init=False, repr=False)
    _calls: CallStore = field(init=False, repr=False)
    _address: tuple[str, int] = field(init=False, repr=False)
    _open: AsyncExitStack = field(init=False, repr=False)

    @property
    def base_url(self) -> str:
        """Where it answers: `http://127.0.0.1:4010`. Only while the context is open."""
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def requests(self) -> tuple[Entry, ...]:
        """The latest 10,000 requests, in the order of their answers."""
        return self._journal.entries

    @property
    def calls(self) -> CallStore:
        """The calls themselves. Only while the context is open."""
        return self._calls

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._calls = stack.enter_context(closing(CallStore(self.database, self.clock)))
            self._journal = Journal(application(self._api()))
            listener = stack.enter_context(_listening(self.host, self.port))
            host, port, *_ = cast("tuple[str, int]", listener.getsockname())
            self._address = host, port
            await stack.enter_async_context(_serving(self._journal, listener))
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._open.__aexit__(kind, error, traceback)

    def _api(self) -> CallsApi:
        return CallsApi(
            account=self.account,
            store=self._calls,
            clock=self.clock,
            owned=frozenset(self.own_numbers),
            any_from=self.any_from,
        )


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    return listener


@asynccontextmanager
async def _serving(app: ASGIApp, listener: socket.socket) -> AsyncGenerator[None]:
    """Uvicorn in steps: its `serve()` would take the host program's signals and hide readiness."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    ticking = asyncio.create_task(server.main_loop())
    try:
        yield
    finally:
        ticking.cancel()
        await asyncio.wait([ticking])
        await server.shutdown(sockets=[listener])


def run(
    *,
    host: str = "127.0.0.1",
    port: int = 4010,
    database: str = ":memory:",
    speed: float = 1,
    seed: int | None = None,
    calls: int | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM; one line on stderr says where and with what credentials.

    Args:
        host: The address to listen on.
        port: The port to listen on, 0 for any free one.
        database: A SQLite file, or `:memory:`.
        speed: How many times as fast as real time the calls live.
        seed: Which history to start with (0 if only `calls` is given).
        calls: How long that history is (250 calls if only `seed` is given). A database that
            holds calls already is left as it is.

    Returns:
        The exit status, 0.

    Raises:
        OSError: The address cannot be listened on.
    """
    emulator = Emulator(host=host, port=port, database=database, clock=accelerated(speed))
    asyncio.run(serve_forever(emulator, seed=seed, calls=calls))
    return 0


async def serve_forever(
    emulator: Emulator, *, seed: int | None = None, calls: int | None = None
) -> None:
    """Serve until SIGINT or SIGTERM, in the main thread; the arguments are those of `run`."""
    stop = asyncio.Event()
    with _stopped_by_signals(stop):
        async with emulator:
            _fill(emulator, seed, calls)
            sys.stderr.write(_announcement(emulator))
            sys.stderr.flush()
            await stop.wait()


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


def _fill(emulator: Emulator, seed: int | None, calls: int | None) -> None:
    if (seed is None and calls is None) or emulator.calls.count():
        return
    length = DEFAULT_HISTORY if calls is None else calls
    seed_history(emulator.calls, seed or 0, length, emulator.clock())


def _announcement(emulator: Emulator) -> str:
    account = emulator.account
    return f"{emulator.base_url} account {account.sid} auth token {account.auth_token}\n"
