"""Sign in: by a link or a token; links for other operators; and sign out."""

import logging
import re
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from calls_mcp.console.access_control import SessionCookie, client_address
from calls_mcp.console.browser_sessions import BAD_LINK, session_of
from calls_mcp.console.state import Console
from calls_mcp.console.templating import page, read_form, read_own_form
from calls_mcp.observability.redaction import one_line

_log = logging.getLogger(__name__)

START = "/approvals"
"""Where operators go if they wanted no other page."""
_MAX_NAME = 64  # characters
_OWN_PATH = re.compile(r"/(?:[\w-]+(?:[/.][\w-]+)*)?(?:\?[\w=&%+.:-]*)?", re.ASCII)
_NO_INVITATIONS = (
    "A token lets in nobody but whom it stands for. Others get one of their own: "
    "calls-mcp token new NAME --scope calls:approve"
)


class SignInPage:
    """The pages that open and end sessions."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._cookie = SessionCookie(console.address)
        self.routes = [
            Route("/sign-in", self.show),
            Route("/sign-in", self.sign_in, methods=["POST"]),
            Route("/sign-out", self.sign_out, methods=["POST"]),
            Route("/invitations", self.show_invitation),
            Route("/invitations", self.invite, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        """Show a form. A link is submitted by a button: previews of links would use it up."""
        if link := request.query_params.get("link", ""):
            return page(request, "sign_in_link.html", {"link": link})
        return self._form(request, START, 200, "Come in")

    async def sign_in(self, request: Request) -> Response:
        """Open a session, and redirect to the page that was wanted."""
        form = await read_form(request)
        wanted = _own_path(form.get("next", ""))
        try:
            secret = await self._open_session(request, form)
        except HTTPException as refusal:
            response = self._form(request, wanted, refusal.status_code, error=refusal.detail)
            response.headers.update(refusal.headers or {})
            return response
        response = RedirectResponse(wanted, 303)
        self._cookie.write(response, secret)
        return response

    async def sign_out(self, request: Request) -> Response:
        """End the session."""
        await read_own_form(request)
        self._console.sessions.end(self._cookie.read(request))
        response = self._form(request, START, 200, "You have left")
        self._cookie.write(response, "")
        return response

    async def show_invitation(self, request: Request) -> Response:
        """Show a form for the name of another operator."""
        _require_invitations(request)
        return page(request, "invitation.html", {"link": "", "name": ""})

    async def invite(self, request: Request) -> Response:
        """Show a new link for another operator, once."""
        form = await read_own_form(request)
        _require_invitations(request)
        name = one_line(form.get("name", ""), _MAX_NAME)
        link = self._console.link(name) if name else ""
        return page(request, "invitation.html", {"link": link, "name": name}, 200 if name else 400)

    def require(self, request: Request, error: str = "", status: int = 401) -> Response:
        """Show a form that leads back to the page that was wanted.

        It also has a link there: a request from another site's page has no SameSite=Strict cookie,
        but one from this page does.
        """
        query = f"?{request.url.query}" if request.url.query else ""
        wanted = _own_path(f"{request.url.path}{query}") if request.method == "GET" else START
        return self._form(request, wanted, status, error=error)

    async def _open_session(self, request: Request, form: Mapping[str, str]) -> str:
        sessions, tokens = self._console.sessions, self._console.tokens
        if "token" not in form:
            return sessions.open_by_link(form.get("link", "").strip().rpartition("?link=")[2])
        if tokens is None:
            raise HTTPException(401, BAD_LINK)
        grant = await tokens.authenticate(form["token"].strip(), client_address(request))
        _log.info("%s has come into the console, by a token", grant.principal)
        return sessions.open_by_grant(grant)

    def _form(
        self, request: Request, wanted: str, status: int, title: str = "Not let in", error: str = ""
    ) -> Response:
        values = {
            "title": title,
            "wanted": wanted,
            "error": error,
            "by_token": self._console.tokens is not None,
            "by_link": self._console.allows_links,
        }
        return page(request, "sign_in.html", values, status)


def _require_invitations(request: Request) -> None:
    if not session_of(request).may_invite:
        raise HTTPException(403, _NO_INVITATIONS)


def _own_path(path: str) -> str:
    """Return a path if this console can have it, or else the start page's."""
    is_own = _OWN_PATH.fullmatch(path) and not path.startswith(("/sign-", "/events"))
    return path if is_own else START
