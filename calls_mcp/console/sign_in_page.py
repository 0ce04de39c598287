"""Sign in with a link or a token, create links for other operators, and sign out."""

import logging
import re
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from calls_mcp.console.access_control import SessionCookie, client_address
from calls_mcp.console.browser_sessions import Session, session_of
from calls_mcp.console.context import ConsoleContext
from calls_mcp.console.templating import page, read_decision, read_form
from calls_mcp.observability.redaction import one_line

_log = logging.getLogger(__name__)

START = "/approvals"
"""The page after signing in, unless another one was requested."""
_MAX_NAME = 64  # characters
_OWN_PATH = re.compile(r"/(?:[\w-]+(?:[/.][\w-]+)*)?(?:\?[\w=&%+.:-]*)?", re.ASCII)
# The first one in a header counts, because browsers also name others that they resemble.
_BROWSERS = {
    "Edg": "Edge",
    "OPR/": "Opera",
    "Firefox/": "Firefox",
    "Chrome/": "Chrome",
    "Safari/": "Safari",
}
_SYSTEMS = {
    "Android": "Android",
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Windows": "Windows",
    "Mac OS": "macOS",
    "CrOS": "ChromeOS",
    "Linux": "Linux",
}
_NO_TOKENS = "This console does not accept tokens. Sign in with a link."
_NO_LINKS = (
    "You signed in with a token, so you can't create links. For another operator, create a token: "
    "calls-mcp token new NAME --scope calls:approve"
)


class SignInPage:
    """The pages that start and end sessions."""

    def __init__(self, console: ConsoleContext) -> None:
        self._console = console
        self._cookie = SessionCookie(console.address)
        self.routes = [
            Route("/sign-in", self.show),
            Route("/sign-in", self.sign_in, methods=["POST"]),
            Route("/sign-out", self.sign_out, methods=["POST"]),
            Route("/operators", self.show_operators),
            Route("/operators", self.create_link, methods=["POST"]),
            Route("/operators/sign-out", self.sign_others_out, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        """Show a form. A link needs a click on a button, so that link previews do not use it."""
        link = request.query_params.get("link", "")
        if not link:
            return self._form(request, START, 200)
        try:
            self._console.sessions.check_link(link)
        except HTTPException as refusal:
            return self._refuse_link(request, refusal)
        return page(request, "sign_in_link.html", {"title": "Sign in", "link": link})

    async def sign_in(self, request: Request) -> Response:
        """Start a session, and show its decision code and a link to the requested page."""
        form = await read_form(request)
        wanted = _own_path(form.get("next", ""))
        try:
            secret, session = await self._open_session(request, form)
        except HTTPException as refusal:
            if "link" in form:
                return self._refuse_link(request, refusal)
            response = self._form(request, wanted, refusal.status_code, error=refusal.detail)
            response.headers.update(refusal.headers or {})
            return response
        request.state.session = session
        response = page(request, "signed_in.html", {"wanted": wanted})
        self._cookie.write(response, secret)
        return response

    async def sign_out(self, request: Request) -> Response:
        """End the session."""
        self._console.sessions.end(self._cookie.read(request))
        response = self._form(request, START, 200, "Signed out")
        self._cookie.write(response, "")
        return response

    async def show_operators(self, request: Request) -> Response:
        """Show who is signed in, and a form for the name of another operator."""
        _require_link_session(request)
        return page(request, "operators.html", await self._operators())

    async def create_link(self, request: Request) -> Response:
        """Create a sign-in link for another operator and show it once."""
        form = await read_decision(request)
        _require_link_session(request)
        name = one_line(form.get("name", ""), _MAX_NAME)
        link = self._console.link(name) if name else ""
        values = {**await self._operators(), "link": link, "name": name}
        return page(request, "operators.html", values, 200 if name else 400)

    async def sign_others_out(self, request: Request) -> Response:
        """End one session, or all of them."""
        form = await read_decision(request)
        _require_link_session(request)
        identifier = form.get("session", "")
        if not identifier:
            raise HTTPException(400, "session must be the id of a session, or all.")
        self._console.sessions.end_all("" if identifier == "all" else identifier)
        return RedirectResponse("/operators", 303)

    async def _operators(self) -> dict[str, object]:
        return {"sessions": await self._console.sessions.all(), "link": "", "name": ""}

    def require(self, request: Request, error: str = "", status: int = 401) -> Response:
        """Show a sign-in form that leads to the requested page.

        It also has a link to that page, for operators who are signed in already: a request from
        another site's page comes without the SameSite=Strict cookie.
        """
        query = f"?{request.url.query}" if request.url.query else ""
        wanted = _own_path(f"{request.url.path}{query}") if request.method == "GET" else START
        return self._form(request, wanted, status, error=error)

    async def _open_session(self, request: Request, form: Mapping[str, str]) -> tuple[str, Session]:
        sessions, tokens = self._console.sessions, self._console.tokens
        browser = _browser(request.headers.get("user-agent", ""))
        if "token" not in form:
            return sessions.open_by_link(
                form.get("link", "").strip().rpartition("?link=")[2], browser
            )
        if tokens is None:
            raise HTTPException(401, _NO_TOKENS)
        grant = await tokens.authenticate(form["token"].strip(), client_address(request))
        _log.info("%s signed in to the console with a token", grant.principal)
        return sessions.open_by_grant(grant, browser)

    def _refuse_link(self, request: Request, refusal: HTTPException) -> Response:
        values = {
            "title": "Cannot sign in",
            "problem": refusal.detail,
            "by_link": self._console.allows_links,
        }
        return page(request, "sign_in_link.html", values, refusal.status_code)

    def _form(
        self, request: Request, wanted: str, status: int, title: str = "Sign in", error: str = ""
    ) -> Response:
        values = {
            "title": title,
            "wanted": wanted,
            "error": error,
            "by_token": self._console.tokens is not None,
            "by_link": self._console.allows_links,
            "offers_continue": title == "Sign in",
        }
        return page(request, "sign_in.html", values, status)


def _require_link_session(request: Request) -> None:
    if not session_of(request).may_invite:
        raise HTTPException(403, _NO_LINKS)


def _browser(user_agent: str) -> str:
    """Return the browser that a User-Agent header claims, such as "Firefox on Linux"."""
    name = next((name for mark, name in _BROWSERS.items() if mark in user_agent), "Other program")
    system = next((name for mark, name in _SYSTEMS.items() if mark in user_agent), "")
    return f"{name} on {system}" if system else name


def _own_path(path: str) -> str:
    """Return the path if it is one of this console, and the start page otherwise."""
    is_own = _OWN_PATH.fullmatch(path) and not path.startswith(("/sign-", "/events"))
    return path if is_own else START
