"""The console as an ASGI application, and its server."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from calls_mcp.audit.log import audit_path
from calls_mcp.console.access_control import AccessControl
from calls_mcp.console.approvals_page import ApprovalsPage
from calls_mcp.console.audit_page import AuditPage
from calls_mcp.console.browser_sessions import Sessions, TokenAuthenticator
from calls_mcp.console.calls_page import CallsPage
from calls_mcp.console.context import ConsoleContext
from calls_mcp.console.listen_address import Address, require_safe
from calls_mcp.console.overview_page import OverviewPage
from calls_mcp.console.policy_page import PolicyPage
from calls_mcp.console.server_sent_events import EventStream
from calls_mcp.console.sign_in_page import START, SignInPage
from calls_mcp.console.templating import page
from calls_mcp.errors import CallsError, ConfigurationError, MissingCredentials
from calls_mcp.guard.operator_decisions import UNSHARED, open_approvals
from calls_mcp.http.authentication import open_verifier
from calls_mcp.http.uvicorn_server import build_uvicorn, max_connections, open_socket, run_uvicorn
from calls_mcp.service.background_tasks import open_background_tasks
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Settings
from calls_mcp.storage.interface import error_text
from calls_mcp.storage.rate_limits import RateLimiter

_POLL_INTERVAL = 1.0  # second
_MAX_CONNECTIONS = 600
_HEAD_TIMEOUT = 10  # seconds
_NO_PAGE = "This page does not exist."
_STATIC = Path(__file__).parent / "static"


@asynccontextmanager
async def open_console(
    settings: Settings,
    address: Address,
    runtime: Runtime | None = None,
    clock: Callable[[], float] = time.time,
    poll_interval: float = _POLL_INTERVAL,
    *,
    sandbox: bool = False,
) -> AsyncGenerator[ConsoleContext]:
    """Serve the console at `address` while the context is open.

    Operators can sign in with a token if the settings require tokens from callers. They can sign
    in with a link unless an HTTP server with tokens shares its `runtime`.

    Args:
        settings: The console's settings.
        address: Where to listen.
        runtime: The runtime of a server in this process. Without one, the console opens its own
            and shows the data of all servers with the same settings.
        clock: Returns the time in epoch seconds.
        poll_interval: Seconds between two checks for changes.
        sandbox: Show the data of servers that run with `--sandbox`.

    Raises:
        ConfigurationError: The address is not safe, the port is in use, or a setting is wrong.
    """
    require_safe(address)
    try:
        listening = open_socket(address.host, address.port)
    except OSError as failure:
        where, reason = replace(address, public="").url, error_text(failure)
        raise ConfigurationError(f"Cannot listen on {where}: {reason}.") from failure
    with listening:
        found = replace(address, port=listening.getsockname()[1])
        async with _open_state(settings, found, runtime, clock, sandbox=sandbox) as console:
            app, events = _build_app(console, poll_interval)
            server = build_uvicorn(app, "off", most=max_connections(_MAX_CONNECTIONS))
            async with run_uvicorn(server, listening, _HEAD_TIMEOUT):
                yield console
                events.close()


def _build_app(console: ConsoleContext, poll_interval: float) -> tuple[ASGIApp, EventStream]:
    sign_in, approvals, calls = SignInPage(console), ApprovalsPage(console), CallsPage(console)
    audit, overview, policy = AuditPage(console), OverviewPage(console), PolicyPage(console)
    topics = {"approvals": approvals.fingerprint, "calls": calls.fingerprint}
    events = EventStream(console.sessions, topics, poll_interval)
    console.background.start(overview.preload)
    console.background.start(events.run)
    pages = (sign_in, approvals, calls, audit, overview, policy, events)
    routes = [
        Route("/", RedirectResponse(START)),
        *(route for each in pages for route in each.routes),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    handle = partial(_handle_error, sign_in)
    app = Starlette(routes=routes, exception_handlers={HTTPException: handle, CallsError: handle})
    # It wraps Starlette's own middleware, so that its error responses have security headers too.
    return AccessControl(app, console, sign_in.require), events


async def _handle_error(sign_in: SignInPage, request: Request, error: Exception) -> Response:
    message, status = f"{error}", 503
    if isinstance(error, HTTPException):
        message, status = error.detail, error.status_code
    if request.state.session is None:
        return sign_in.require(request, message, status)
    known = HTTPStatus(status)
    if message == known.phrase:  # Starlette's own
        message = _NO_PAGE if status == HTTPStatus.NOT_FOUND else known.description
    values = {"title": known.phrase.capitalize(), "message": message}
    return page(request, "error.html", values, status)


@asynccontextmanager
async def _open_state(
    settings: Settings,
    address: Address,
    runtime: Runtime | None,
    clock: Callable[[], float],
    *,
    sandbox: bool,
) -> AsyncGenerator[ConsoleContext]:
    unavailable: dict[str, str] = {}
    allows_links = runtime is None or settings.auth.mode == "none"
    async with AsyncExitStack() as stack:
        approvals = (await runtime.changes()).approvals if runtime else None
        if settings.storage.is_memory:
            unavailable["approvals"] = UNSHARED
        elif runtime is None:
            opening = open_approvals(settings, clock, sandbox=sandbox)
            approvals = await stack.enter_async_context(opening)
        if sandbox:
            unavailable["runtime"] = (
                "Sandbox calls exist only inside their server, so the console can't show them."
            )
        elif runtime is None:
            try:
                access = settings.twilio.access()
            except MissingCredentials as error:
                unavailable["runtime"] = f"Missing credentials: set {error.missing}."
            else:
                runtime = await stack.enter_async_context(Runtime(settings, access, clock=clock))
        audit_database = audit_path(settings, sandbox=runtime.sandbox if runtime else sandbox)
        if audit_database is None:
            unavailable["audit_database"] = (
                "Each server writes its audit log to stderr. To see it here, set "
                "CALLS_MCP_AUDIT_DATABASE to a file."
            )
        yield ConsoleContext(
            settings=settings,
            address=address,
            sessions=Sessions(clock),
            tokens=await _open_tokens(settings, runtime, clock),
            allows_links=allows_links,
            approvals=approvals,
            runtime=runtime,
            audit_database=audit_database,
            unavailable=unavailable,
            background=await stack.enter_async_context(open_background_tasks()),
            clock=clock,
        )


async def _open_tokens(
    settings: Settings, runtime: Runtime | None, clock: Callable[[], float]
) -> TokenAuthenticator | None:
    verifier = open_verifier(settings, runtime.monotonic if runtime else time.monotonic)
    if verifier is None:
        return None
    limiter = (await runtime.services()).rates if runtime else RateLimiter(None, clock)
    return TokenAuthenticator(verifier, limiter, clock)
