"""The door: coming in by a link, letting others in, going out."""

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from calls_mcp.console.entrance import SESSION_LASTS
from calls_mcp.console.forms import fields, own_fields
from calls_mcp.console.gate import cookie_name, session_secret
from calls_mcp.console.house import House
from calls_mcp.console.pages import page, render
from calls_mcp.redaction import one_line

_LONGEST_NAME = 64


class Door:
    """The pages of coming and going."""

    def __init__(self, house: House) -> None:
        self._house = house

    @property
    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/login", self.ask),
            Route("/login", self.enter, methods=["POST"]),
            Route("/people", self.people),
            Route("/people", self.invite, methods=["POST"]),
            Route("/logout", self.leave, methods=["POST"]),
        ]

    async def ask(self, request: Request) -> Response:
        """A page with a button: whatever only looks at links does not use this one up."""
        link = request.query_params.get("link", "")
        return HTMLResponse(render("login.html", link=link))

    async def enter(self, request: Request) -> Response:
        """Open a session, if the link is good."""
        entrance, place = self._house.entrance, self._house.place
        secret = entrance.admit((await fields(request)).get("link", ""))
        if secret is None:
            return outside()
        response = RedirectResponse("/", 303)
        response.set_cookie(
            cookie_name(place),
            secret,
            max_age=SESSION_LASTS,
            httponly=True,
            samesite="strict",
            secure=place.is_secure,
        )
        return response

    async def people(self, request: Request) -> Response:
        """A form to let somebody else in."""
        return page(request, "people.html", {"link": "", "name": ""})

    async def invite(self, request: Request) -> Response:
        """Show a link for somebody else, once."""
        name = one_line((await own_fields(request)).get("name", ""), _LONGEST_NAME)
        link = link_for(self._house, name) if name else ""
        return page(request, "people.html", {"link": link, "name": name}, 200 if name else 400)

    async def leave(self, request: Request) -> Response:
        """End the session."""
        await own_fields(request)
        place = self._house.place
        self._house.entrance.dismiss(session_secret(request.headers, place))
        response = HTMLResponse(render("outside.html", left=True))
        response.delete_cookie(
            cookie_name(place), httponly=True, samesite="strict", secure=place.is_secure
        )
        return response


def link_for(house: House, name: str) -> str:
    """A link that lets somebody in as `name`, once."""
    return f"{house.place.url}/login?link={house.entrance.invite(name)}"


def outside() -> HTMLResponse:
    """What anybody sees who has not come in."""
    return HTMLResponse(render("outside.html", left=False), status_code=401)
