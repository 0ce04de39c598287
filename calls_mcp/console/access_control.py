"""Check the host, the origin and the session of every request."""

from collections.abc import Callable
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.console.browser_sessions import SESSION_SECONDS, Session
from calls_mcp.console.context import ConsoleContext
from calls_mcp.console.listen_address import Address
from calls_mcp.errors import StoreUnavailable

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_SECURITY_HEADERS = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, a form's Origin would be null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_PUBLIC_PATHS = ("/sign-in", "/static/")
_SAFE_METHODS = ("GET", "HEAD")
_READ_ONLY = (
    "A token in the Authorization header only allows reading. To decide, sign in with a browser."
)


class AccessControl:
    """Stores the session in the request's state, or responds with `sign_in` if there is none."""

    def __init__(
        self, app: ASGIApp, console: ConsoleContext, sign_in: Callable[[Request], Response]
    ) -> None:
        self._app = app
        self._console = console
        self._cookie = SessionCookie(console.address)
        self._sign_in = sign_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, with security headers on every response."""
        if scope["type"] != "http":
            return
        app = self._app
        request = Request(scope)
        try:
            self._check_source(request)
            session = request.state.session = await self._authenticate(request)
            request.state.pending = await self._count_pending() if session else 0
            if session is None and not request.url.path.startswith(_PUBLIC_PATHS):
                app = self._sign_in(request)
        except HTTPException as refusal:
            app = PlainTextResponse(refusal.detail, refusal.status_code, refusal.headers)
        await app(scope, receive, _with_security_headers(send))

    async def _count_pending(self) -> int:
        """Return the number of pending requests for the navigation, 0 if it can't be read."""
        approvals = self._console.approvals
        with suppress(StoreUnavailable):
            return (await approvals.page(0)).count if approvals else 0
        return 0

    def _check_source(self, request: Request) -> None:
        """Refuse other host names (DNS rebinding) and other origins (request forgery)."""
        address, headers = self._console.address, request.headers
        if headers.getlist("host") not in [[host] for host in address.hosts]:
            raise HTTPException(
                421,
                "Unknown host name. Open the console at the URL that it printed when it started.",
            )
        origins = headers.getlist("origin")
        is_own = len(origins) == 1 and origins[0] in address.origins
        if not is_own and (origins or request.method not in _SAFE_METHODS):
            raise HTTPException(403, "This request does not come from a page of this console.")

    async def _authenticate(self, request: Request) -> Session | None:
        """Return the session of a request. A bearer token takes precedence over the cookie."""
        sessions, tokens = self._console.sessions, self._console.tokens
        token = _bearer_token(request.headers)
        if not token or tokens is None:
            secret = self._cookie.read(request)
            return await sessions.find(secret) if secret else None
        # Programs with a token can read, but only a person who saw the page can decide.
        if request.method not in _SAFE_METHODS:
            raise HTTPException(405, _READ_ONLY, {"Allow": ", ".join(_SAFE_METHODS)})
        return sessions.for_request(await tokens.authenticate(token, client_address(request)))


class SessionCookie:
    """The cookie that holds the secret of a session.

    Its name includes the port, because browsers share cookies between ports. Over https, a
    `__Host-` prefix prevents other hosts from setting it.
    """

    def __init__(self, address: Address) -> None:
        self._is_secure = address.is_secure
        self._name = f"calls_mcp_console_{address.port}"
        if address.is_secure:
            self._name = "__Host-calls_mcp_console"

    def read(self, request: Request) -> str:
        """Return the secret, empty without a cookie."""
        return request.cookies.get(self._name, "")

    def write(self, response: Response, secret: str) -> None:
        """Set the cookie; an empty secret deletes it."""
        response.set_cookie(
            self._name,
            secret,
            max_age=SESSION_SECONDS if secret else 0,
            httponly=True,
            samesite="strict",
            secure=self._is_secure,
        )


def client_address(request: Request) -> str:
    """Return the IP address of a request's sender, which may be a proxy."""
    return request.client.host if request.client else ""


def _bearer_token(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _with_security_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_SECURITY_HEADERS)
        await send(message)

    return send_with_headers
