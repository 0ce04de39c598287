"""The emulator's own endpoints under `/emulator/`, for tests and people on this machine."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from calls_mcp.emulator.clock import Adjusted
from calls_mcp.emulator.deliveries import is_loopback
from calls_mcp.emulator.errors import ApiError, invalid
from calls_mcp.emulator.faults import Armed, Fault, Faults
from calls_mcp.emulator.journal import Journal, plain
from calls_mcp.emulator.page import LATEST, POLICY, View, page
from calls_mcp.emulator.store import CallStore

PREFIX = "/emulator"
LAST_MOMENT = datetime(9000, 1, 1, tzinfo=UTC).timestamp()

Body = TypeVar("Body", bound=BaseModel)
Endpoint = Callable[[Request], Awaitable[Response]]


class Advance(BaseModel):
    """How far the clock is to be put forward, in seconds."""

    model_config = ConfigDict(extra="forbid")

    advance: float = Field(ge=0, le=10_000_000_000, allow_inf_nan=False)


@dataclass(frozen=True)
class Control:
    """What can be seen and done from outside the API.

    Attributes:
        store: The calls.
        clock: What they live by.
        faults: What is to go wrong.
        journal: What came in.
    """

    store: CallStore
    clock: Adjusted
    faults: Faults
    journal: Journal

    async def page(self, _: Request) -> Response:
        """The calls, for a person."""
        view = View(
            now=self.clock(),
            count=self.store.count(),
            calls=self.store.stretch((), LATEST).calls,
            requests=self.journal.entries[: -LATEST - 1 : -1],
            callbacks=tuple(self.store.outbox.latest(LATEST)),
            faults=self.faults.armed,
        )
        return HTMLResponse(page(view), headers={"Content-Security-Policy": POLICY})

    async def requests(self, _: Request) -> Response:
        """What came in, oldest first."""
        return JSONResponse({"requests": [plain(entry) for entry in self.journal.entries]})

    async def show_clock(self, _: Request) -> Response:
        """The time."""
        now = self.clock()
        return JSONResponse({"now": datetime.fromtimestamp(now, UTC).isoformat(), "epoch": now})

    async def advance(self, request: Request) -> Response:
        """Put the clock forward."""
        seconds = (await _read(request, Advance)).advance
        if self.clock() + seconds > LAST_MOMENT:
            raise invalid("advance: the clock goes no further than the year 9000.")
        self.clock.advance(seconds)
        return await self.show_clock(request)

    async def show_faults(self, _: Request) -> Response:
        """What is still to go wrong."""
        return JSONResponse({"faults": [_armed(each) for each in self.faults.armed]})

    async def add_fault(self, request: Request) -> Response:
        """Let something go wrong."""
        self.faults.add(await _read(request, Fault))
        return JSONResponse({"faults": [_armed(each) for each in self.faults.armed]}, 201)

    async def clear_faults(self, _: Request) -> Response:
        """Let nothing go wrong any more."""
        self.faults.clear()
        return Response(status_code=204)

    def clear(self) -> None:
        """Forget everything that happened, and what the clock was put forward by."""
        self.store.clear()
        self.clock.reset()
        self.faults.clear()
        self.journal.clear()

    async def reset(self, _: Request) -> Response:
        """Begin anew."""
        self.clear()
        return Response(status_code=204)


def control_application(control: Control) -> Starlette:
    """The ASGI application of these endpoints."""
    routes = [
        _route("/", {"GET": control.page}),
        _route("/requests", {"GET": control.requests}),
        _route("/clock", {"GET": control.show_clock, "POST": control.advance}),
        _route(
            "/faults",
            {
                "GET": control.show_faults,
                "POST": control.add_fault,
                "DELETE": control.clear_faults,
            },
        ),
        _route("/reset", {"POST": control.reset}),
    ]
    return Starlette(routes=routes, exception_handlers={ApiError: _refuse})


def _route(path: str, endpoints: Mapping[str, Endpoint]) -> Route:
    async def guarded(request: Request) -> Response:
        _require_this_machine(request)
        return await endpoints["GET" if request.method == "HEAD" else request.method](request)

    return Route(PREFIX + path, guarded, methods=list(endpoints))


def _require_this_machine(request: Request) -> None:
    """Let in nobody from another machine, nor another site's page in a browser of this one.

    Raises:
        ApiError: 403.
    """
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    names_us = is_loopback(urlsplit(f"//{host}").hostname or "")
    ours = origin is None or urlsplit(origin).netloc == host
    from_here = request.client is not None and is_loopback(request.client.host)
    if not (names_us and ours and from_here):
        raise ApiError(403, 20003, "These pages are for this machine only.")


async def _read(request: Request, model: type[Body]) -> Body:
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in faults)
        raise invalid(told.removeprefix(": ")) from error


def _armed(armed: Armed) -> dict[str, Any]:
    return {**armed.fault.model_dump(exclude_none=True), "left": armed.left}


def _refuse(_: Request, error: Exception) -> Response:
    refusal = cast("ApiError", error)
    return JSONResponse(refusal.body(), refusal.status)
