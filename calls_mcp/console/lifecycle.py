"""Serving the console, beside other servers or without any."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from calls_mcp.audit import audit_path
from calls_mcp.console.address import Address, require_safe
from calls_mcp.console.browser_sessions import Sessions
from calls_mcp.console.context import House
from calls_mcp.console.routes import build_app
from calls_mcp.console.sign_in import link_for
from calls_mcp.console.sign_in_tokens import Tokens
from calls_mcp.errors import ConfigurationError
from calls_mcp.guard.operator import UNSHARED, open_approvals
from calls_mcp.http.listening import listener, places, server_of, serving
from calls_mcp.http.verifier import open_verifier
from calls_mcp.service.background import background
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Settings
from calls_mcp.storage.rate_limiter import RateLimiter

_LOOK_EVERY = 1.0  # second
_MOST = 600  # connections
_PATIENCE = 10  # seconds for the head of a request


@dataclass(frozen=True, slots=True)
class Console:
    """A console that is being served."""

    house: House

    @property
    def url(self) -> str:
        """Where it is."""
        return self.house.address.url

    def link(self, name: str) -> str:
        """A link that lets somebody in as `name`, once, for ten minutes."""
        return link_for(self.house, name)


@asynccontextmanager
async def open_console(
    settings: Settings,
    address: Address,
    runtime: Runtime | None = None,
    clock: Callable[[], float] = time.time,
    look_every: float = _LOOK_EVERY,
    *,
    sandbox: bool = False,
) -> AsyncGenerator[Console]:
    """Serve the console at `address`, with a `runtime` that is there already or one of its own.

    Where the settings have callers show tokens, operators can come in by one; beside a service, in
    no other way. Without a `runtime`, it is the console of servers with the same settings, or of
    those that run a `sandbox`.

    Raises:
        ConfigurationError: It would not be safe there, the port can't be had, or a setting is
            wrong.
    """
    require_safe(address)
    try:
        listening = listener(address.host, address.port)
    except OSError as failure:
        raise ConfigurationError(f"Cannot listen on {address.url}: {failure.strerror}") from failure
    with listening:
        found = replace(address, port=listening.getsockname()[1])
        async with _furnished(settings, found, runtime, clock, sandbox=sandbox) as house:
            app, news = build_app(house, look_every)
            server = server_of(app, "off", most=places(_MOST))
            async with serving(server, listening, _PATIENCE):
                yield Console(house)
                news.end()


@asynccontextmanager
async def _furnished(
    settings: Settings,
    address: Address,
    runtime: Runtime | None,
    clock: Callable[[], float],
    *,
    sandbox: bool,
) -> AsyncGenerator[House]:
    lacking: dict[str, str] = {}
    links = runtime is None or settings.auth.mode == "none"
    async with AsyncExitStack() as stack:
        approvals = await runtime.approvals() if runtime else None
        if settings.storage.is_memory:
            lacking["approvals"] = UNSHARED
        elif runtime is None:
            opening = open_approvals(settings, clock, sandbox=sandbox)
            approvals = await stack.enter_async_context(opening)
        if sandbox:
            lacking["runtime"] = "The calls of a sandbox exist only in its server."
        elif runtime is None:
            try:
                access = settings.twilio.access()
            except ConfigurationError as missing:
                lacking["runtime"] = f"{missing}"
            else:
                runtime = await stack.enter_async_context(Runtime(settings, access, clock=clock))
        record = audit_path(settings, sandbox=runtime.sandbox if runtime else sandbox)
        if record is None:
            lacking["record"] = "The audit log goes to each server's stderr."
        tokens = await _tokens(settings, runtime, clock)
        tasks = await stack.enter_async_context(background())
        yield House(
            settings,
            address,
            Sessions(clock),
            tokens,
            links,
            approvals,
            runtime,
            record,
            lacking,
            tasks,
            clock,
        )


async def _tokens(
    settings: Settings, runtime: Runtime | None, clock: Callable[[], float]
) -> Tokens | None:
    """What verifies tokens, with the counts of the server if there is one."""
    verifier = open_verifier(settings, runtime.monotonic if runtime else time.monotonic)
    if verifier is None:
        return None
    return Tokens(verifier, await runtime.rates() if runtime else RateLimiter(None, clock), clock)
