"""What every request passes first, and every answer last."""

from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.console.address import Address
from calls_mcp.console.context import House
from calls_mcp.console.sign_in_tokens import Refusal, Tokens

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_ALWAYS = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # without any, a form's Origin would be null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_OPEN = ("/sign-in", "/static/")
_READING = ("GET", "HEAD")
_READ_ONLY = "A token of a program's reads: whoever decides comes in by a browser."


class Gate:
    """Checks host, origin and session; the session is then in the request's state.

    `outside` answers whoever has none.
    """

    def __init__(self, app: ASGIApp, house: House, outside: Callable[[Request], Response]) -> None:
        self._app = app
        self._house = house
        self._address = house.address
        self._sessions = house.sessions
        self._outside = outside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        if scope["type"] != "http":
            return
        app = await self._refusal(scope) or self._app
        await app(scope, receive, _guarded(send))

    async def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if headers.getlist("host") not in [[host] for host in self._address.hosts]:
            return PlainTextResponse("This console is not known by that host.", 421)
        origins = headers.getlist("origin")
        is_ours = len(origins) == 1 and origins[0] in self._address.origins
        if not is_ours and (origins or scope["method"] not in _READING):
            return PlainTextResponse("That was not sent by a page of this console.", 403)
        token, tokens = _bearer(headers), self._house.tokens
        if token and tokens:
            return await self._by_token(scope, token, tokens)
        secret = session_secret(headers, self._address)
        session = await self._sessions.session(secret) if secret else None
        scope.setdefault("state", {})["session"] = session
        is_open = scope["path"].startswith(_OPEN)
        return None if session or is_open else self._outside(Request(scope))

    async def _by_token(self, scope: Scope, token: str, tokens: Tokens) -> Response | None:
        """Let a program read; whatever cookie it sends does not count."""
        if scope["method"] not in _READING:
            return PlainTextResponse(_READ_ONLY, 405, {"Allow": ", ".join(_READING)})
        grant = await tokens.admit(token, address_of(Request(scope)))
        if isinstance(grant, Refusal):
            return PlainTextResponse(grant.words, grant.status, grant.headers)
        scope.setdefault("state", {})["session"] = self._sessions.visit(grant)
        return None


def cookie_name(address: Address) -> str:
    """The session's cookie: another port's is another, and under https no other host can set it."""
    return "__Host-calls_mcp_console" if address.is_secure else f"calls_mcp_console_{address.port}"


def session_secret(headers: Headers, address: Address) -> str:
    """What the cookie says, or nothing."""
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(cookie_name(address))
    except CookieError:
        return ""
    return cookie.value if cookie else ""


def address_of(request: Request) -> str:
    """The address that a request comes from, which may be a proxy's."""
    return request.client.host if request.client else ""


def _bearer(headers: Headers) -> str:
    """The token in the head of a request, or nothing."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _guarded(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _ALWAYS.items():
                headers[name] = value
        await send(message)

    return guarded
