"""Coming in by a link or a token, letting others in, going out."""

import logging
import re

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from calls_mcp.console.access_control import address_of, cookie_name, session_secret
from calls_mcp.console.browser_sessions import SESSION_LASTS, session_of
from calls_mcp.console.context import House
from calls_mcp.console.forms import fields, own_fields
from calls_mcp.console.rendering import page, render
from calls_mcp.console.sign_in_tokens import Refusal
from calls_mcp.observability.redaction import one_line

_log = logging.getLogger(__name__)

START = "/approvals"
_LONGEST_NAME = 64
_OWN = re.compile(r"/(?:[\w-]+(?:[/.][\w-]+)*)?(?:\?[\w=&%+.:-]*)?", re.ASCII)
_LINK = "?link="
_NO_LINK = Refusal(401, "That is no link that is good now.")
_NO_INVITING = (
    "A token lets in nobody but whom it stands for. Others get one of their own: "
    "calls-mcp token new NAME --scope calls:approve"
)


class Login:
    """The pages of coming and going."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def ask(self, request: Request) -> Response:
        """A page with a button: whatever only looks at links does not use this one up."""
        link = request.query_params.get("link", "")
        if not link:
            return self._page(START, 200, "Come in")
        return HTMLResponse(render("login.html", link=link))

    async def enter(self, request: Request) -> Response:
        """Open a session, if the link or the token is good, and go where they wanted to."""
        sent = await fields(request)
        if "token" in sent:
            secret = await self._by_token(request, sent["token"].strip())
        else:
            link = sent.get("link", "").strip().rpartition(_LINK)[2]
            secret = self._house.sessions.admit(link) or _NO_LINK
        wanted = _own(sent.get("next", ""))
        if isinstance(secret, Refusal):
            words, headers = secret.words, secret.headers
            return self._page(wanted, secret.status, trouble=words, headers=headers)
        address, response = self._house.address, RedirectResponse(wanted, 303)
        response.set_cookie(
            cookie_name(address),
            secret,
            max_age=SESSION_LASTS,
            httponly=True,
            samesite="strict",
            secure=address.is_secure,
        )
        return response

    async def people(self, request: Request) -> Response:
        """A form to let somebody else in."""
        _require_link(request)
        return page(request, "people.html", {"link": "", "name": ""})

    async def invite(self, request: Request) -> Response:
        """Show a link for somebody else, once."""
        sent = await own_fields(request)
        _require_link(request)
        name = one_line(sent.get("name", ""), _LONGEST_NAME)
        link = link_for(self._house, name) if name else ""
        return page(request, "people.html", {"link": link, "name": name}, 200 if name else 400)

    async def leave(self, request: Request) -> Response:
        """End the session."""
        await own_fields(request)
        address = self._house.address
        self._house.sessions.dismiss(session_secret(request.headers, address))
        response = self._page(START, 200, "You have left")
        response.delete_cookie(
            cookie_name(address), httponly=True, samesite="strict", secure=address.is_secure
        )
        return response

    def outside(self, request: Request, trouble: str = "", status: int = 401) -> HTMLResponse:
        """What anybody sees who has not come in: how to, and on to where they wanted to go.

        A link on another site's page leads here even those who have come in, for their browser
        sends no cookie along; on from here it does.
        """
        query = f"?{request.url.query}" if request.url.query else ""
        wanted = _own(f"{request.url.path}{query}") if request.method == "GET" else START
        return self._page(wanted, status, trouble=trouble)

    def _page(
        self,
        wanted: str,
        status: int,
        title: str = "Not let in",
        trouble: str = "",
        headers: dict[str, str] | None = None,
    ) -> HTMLResponse:
        text = render(
            "outside.html",
            title=title,
            wanted=wanted,
            trouble=trouble,
            by_token=self._house.tokens is not None,
            by_link=self._house.links,
        )
        return HTMLResponse(text, status, headers)

    async def _by_token(self, request: Request, token: str) -> str | Refusal:
        tokens = self._house.tokens
        if tokens is None:
            return _NO_LINK
        grant = await tokens.admit(token, address_of(request))
        if isinstance(grant, Refusal):
            return grant
        _log.info("%s has come into the console, by a token", grant.principal)
        return self._house.sessions.welcome(grant)


def link_for(house: House, name: str) -> str:
    """A link that lets somebody in as `name`, once."""
    return f"{house.address.url}/sign-in{_LINK}{house.sessions.invite(name)}"


def _require_link(request: Request) -> None:
    if not session_of(request).may_invite:
        raise HTTPException(403, _NO_INVITING)


def _own(path: str) -> str:
    """A path if it is one that this console could have, or else that of the first page."""
    is_own = _OWN.fullmatch(path) and not path.startswith(("/sign-in", "/sign-out", "/events"))
    return path if is_own else START
