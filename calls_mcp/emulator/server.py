"""The emulator, in this process or on a socket."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Self, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from calls_mcp.emulator.api.account import AccountApi
from calls_mcp.emulator.api.calls import CallsApi
from calls_mcp.emulator.api.control import PREFIX, ControlApi
from calls_mcp.emulator.api.endpoints import application
from calls_mcp.emulator.api.middleware import (
    ClosableConnection,
    FaultInjection,
    LoggedRequest,
    RequestLog,
)
from calls_mcp.emulator.api.recordings import RecordingsApi
from calls_mcp.emulator.call_store import CallStore
from calls_mcp.emulator.callbacks import CallbackSender
from calls_mcp.emulator.clock import AdjustableClock, Clock, accelerated
from calls_mcp.emulator.credentials import DEFAULT_ACCOUNT, Account
from calls_mcp.emulator.scenario import VALID_FROM, Reaction, Scenario, Script
from calls_mcp.emulator.voice.dialing import run_instructions
from calls_mcp.emulator.voice.switchboard import Switchboard
from calls_mcp.emulator.webhooks import webhooks

OWN_NUMBERS = (VALID_FROM, "+15005550100")
REAL_URL = "https://api.twilio.com"
GRACE_SECONDS = 2


@dataclass(kw_only=True)
class Emulator:
    """An emulator of the Calls API, which runs while the context is open.

    ```python
    async with Emulator() as emulator:
        httpx.AsyncClient(base_url=emulator.base_url, auth=(account.sid, account.auth_token))
    ```

    Attributes:
        account: The account and its credentials.
        database: An SQLite file, or `:memory:`.
        host: The address to listen on.
        port: The port to listen on, 0 for any free port, None for no socket (see `app`).
        clock: Returns the time in seconds since the epoch.
        own_numbers: The numbers of the account. A call to one of them also has an inbound
            record.
        scenario: The behavior of destinations.
        calls_per_second: How many calls the account dials per second. Further calls are queued.
        callbacks_anywhere: Whether other machines are asked for TwiML, too, and receive callbacks.
        strict: Whether unknown parameters are refused. Twilio ignores them.
    """

    account: Account = DEFAULT_ACCOUNT
    database: str = ":memory:"
    host: str = "127.0.0.1"
    port: int | None = 0
    clock: Clock = field(default_factory=lambda: accelerated(1))
    own_numbers: Collection[str] = OWN_NUMBERS
    scenario: Scenario = field(default_factory=Scenario)
    calls_per_second: float = 1
    callbacks_anywhere: bool = False
    strict: bool = False
    _control: ControlApi = field(init=False, repr=False)
    _app: ASGIApp = field(init=False, repr=False)
    _address: tuple[str, int] = field(init=False, repr=False)
    _open: AsyncExitStack = field(init=False, repr=False)

    @property
    def base_url(self) -> str:
        """The URL of the API, such as `http://127.0.0.1:4010`, while it listens."""
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def app(self) -> ASGIApp:
        """The API as an ASGI application for clients in this process, while the context is open."""
        return self._app

    @property
    def requests(self) -> tuple[LoggedRequest, ...]:
        """The latest 10,000 requests to the API, in order of their responses."""
        return self._control.log.requests

    @property
    def faults(self) -> FaultInjection:
        """The active faults, while the context is open."""
        return self._control.faults

    @property
    def calls(self) -> CallStore:
        """The calls, while the context is open."""
        return self._control.store

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            clock = AdjustableClock(self.clock)
            store = stack.enter_context(closing(CallStore(self.database, clock)))
            clock.catch_up(store.last_change())  # the clock that wrote the file may have been ahead
            listener = None if self.port is None else self._listen(stack, self.port)
            url = self.base_url if listener else REAL_URL
            store.recordings.location = f"{url}{self.account.path}/Recordings"
            hooks = await stack.enter_async_context(
                webhooks(self.account, anywhere=self.callbacks_anywhere)
            )
            sender = CallbackSender(store.callbacks, hooks)
            await stack.enter_async_context(sender.running())
            numbers = {*self.own_numbers, *self.scenario.own_numbers}
            switchboard = Switchboard(store, self.scenario, numbers, hooks, run_instructions)
            await stack.enter_async_context(switchboard.running())
            self._app = self._application(store, switchboard, sender, clock, numbers)
            if listener:
                server = uvicorn.Server(_config(self._app))
                await stack.enter_async_context(_serving(server, listener))
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    def now(self) -> float:
        """Return the time that its clock shows, in seconds since the epoch."""
        return self._control.clock()

    async def advance(self, seconds: float) -> None:
        """Advance the clock, and run everything that is due on the way, in order."""
        await self._control.advance(seconds)

    def ring(self, to: str, from_: str, caller: Script) -> str:
        """Call a number of the account from outside, and return the SID of the inbound call.

        Raises:
            ApiError: The scenario has no `voice_url` for the number.
        """
        return self._control.switchboard.ring(to, from_, caller).sid

    def react(self, sid: str, reaction: Reaction) -> None:
        """Let the other party of a call press keys, say something or hang up now."""
        with self.calls.transaction():
            self._control.switchboard.react(sid, reaction)

    def transcript_lines(self, sid: str) -> tuple[str, ...]:
        """Return what happened in a call, such as `0:03 said “Your table is ready.”`.

        The times count from the moment the call was dialed.
        """
        call = self.calls.get(sid)
        if call is None:
            return ()
        return tuple(each.line(call.ring_at) for each in self.calls.transcripts.of(sid))

    def reset(self) -> None:
        """Delete every call, request and fault, and reset the clock."""
        self._control.reset()

    def _listen(self, stack: AsyncExitStack, port: int) -> socket.socket:
        listener = stack.enter_context(_listener(self.host, port))
        host, bound, *_ = cast("tuple[str, int]", listener.getsockname())
        self._address = host, bound
        return listener

    def _application(
        self,
        store: CallStore,
        switchboard: Switchboard,
        sender: CallbackSender,
        clock: AdjustableClock,
        numbers: Collection[str],
    ) -> ASGIApp:
        interval = 1 / self.calls_per_second
        api = CallsApi(self.account, store, switchboard, self.scenario, interval)
        others = AccountApi(self.account, numbers, self.scenario)
        recordings = RecordingsApi(self.account, store)
        routes = [*api.routes(), *recordings.routes(), *others.routes()]
        faults = FaultInjection(
            application(routes, strict=self.strict), has_connections=self.port is not None
        )
        log = RequestLog(faults)
        self._control = ControlApi(store, switchboard, sender, clock, faults, log)
        control = self._control.application()

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            path = cast("str", scope["path"])
            app = control if f"{path}/".startswith(f"{PREFIX}/") else log
            await app(scope, receive, send)

        return dispatch


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=ClosableConnection,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    return listener


@asynccontextmanager
async def _serving(server: uvicorn.Server, listener: socket.socket) -> AsyncGenerator[None]:
    """Serve while the context is open. Uvicorn's own `serve` would handle signals."""
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup(sockets=[listener])
    loop = asyncio.create_task(server.main_loop())
    try:
        yield
    finally:
        loop.cancel()
        await asyncio.wait([loop])
        if server.server_state.connections:
            await server.shutdown(sockets=[listener])
        for each in server.servers:
            each.close()
