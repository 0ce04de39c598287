"""The emulator as a running server."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from calls_mcp.emulator.account import DEFAULT_ACCOUNT, Account
from calls_mcp.emulator.api import CallsApi, application
from calls_mcp.emulator.clock import Adjusted, Clock, accelerated
from calls_mcp.emulator.connections import Connection, cuttable
from calls_mcp.emulator.control import PREFIX, Control, control_application
from calls_mcp.emulator.deliveries import Courier
from calls_mcp.emulator.faults import Faults, Faulty
from calls_mcp.emulator.journal import Entry, Journal
from calls_mcp.emulator.placing import Placer
from calls_mcp.emulator.scripts import VALID_FROM, Scenario
from calls_mcp.emulator.store import CallStore

OWN_NUMBERS = (VALID_FROM, "+15005550100")
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
        scenario: What the destinations do.
        calls_per_second: How many calls the account dials; more wait in its queue.
        callbacks_anywhere: Send callbacks to other machines, too.
    """

    account: Account = DEFAULT_ACCOUNT
    database: str = ":memory:"
    host: str = "127.0.0.1"
    port: int = 0
    clock: Clock = field(default_factory=lambda: accelerated(1))
    own_numbers: Collection[str] = OWN_NUMBERS
    any_from: bool = False
    scenario: Scenario = field(default_factory=Scenario)
    calls_per_second: float = 1
    callbacks_anywhere: bool = False
    _journal: Journal = field(init=False, repr=False)
    _calls: CallStore = field(init=False, repr=False)
    _faults: Faults = field(init=False, repr=False)
    _address: tuple[str, int] = field(init=False, repr=False)
    _open: AsyncExitStack = field(init=False, repr=False)

    @property
    def base_url(self) -> str:
        """Where it answers: `http://127.0.0.1:4010`. Only while the context is open."""
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def requests(self) -> tuple[Entry, ...]:
        """The latest 10,000 requests to the API, in the order of their answers."""
        return self._journal.entries

    @property
    def faults(self) -> Faults:
        """What is to go wrong. Only while the context is open."""
        return self._faults

    @property
    def calls(self) -> CallStore:
        """The calls themselves. Only while the context is open."""
        return self._calls

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            clock = Adjusted(self.clock)
            self._calls = stack.enter_context(closing(CallStore(self.database, clock)))
            clock.catch_up(self._calls.latest() or 0)  # a file may be from a clock put forward
            listener = stack.enter_context(_listening(self.host, self.port))
            host, port, *_ = cast("tuple[str, int]", listener.getsockname())
            self._address = host, port
            courier = Courier(self._calls.outbox, self.account, self.callbacks_anywhere)
            await stack.enter_async_context(courier.working())
            await stack.enter_async_context(_serving(self._application(clock), listener))
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._open.__aexit__(kind, error, traceback)

    def reset(self) -> None:
        """Forget every call, request and fault."""
        self._calls.clear()
        self._faults.clear()
        self._journal.clear()

    def _application(self, clock: Adjusted) -> ASGIApp:
        faults = self._faults = Faults()
        self._journal = Journal(Faulty(application(self._api()), faults))
        api = cuttable(self._journal)
        control = control_application(Control(self._calls, clock, faults, self._journal))

        async def either(scope: Scope, receive: Receive, send: Send) -> None:
            path = cast("str", scope["path"])
            app = control if f"{path}/".startswith(f"{PREFIX}/") else api
            await app(scope, receive, send)

        return either

    def _api(self) -> CallsApi:
        return CallsApi(
            account=self.account,
            store=self._calls,
            placer=Placer(frozenset(self.own_numbers), self.scenario, self.any_from),
            interval=1 / self.calls_per_second,
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
        http=Connection,
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
