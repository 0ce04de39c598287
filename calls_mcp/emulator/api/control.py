"""The control API under `/emulator/`, for tests and people on this machine."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from calls_mcp.emulator.api.calls import price
from calls_mcp.emulator.api.endpoints import Endpoint, call_in_path, refuse, route
from calls_mcp.emulator.api.middleware import Fault, FaultInjection, RequestLog
from calls_mcp.emulator.api_errors import ApiError, describe, invalid
from calls_mcp.emulator.call_lifecycle import Call
from calls_mcp.emulator.call_store import CallStore
from calls_mcp.emulator.callbacks import Callback, CallbackSender
from calls_mcp.emulator.clock import AdjustableClock, rfc2822
from calls_mcp.emulator.scenario import ORDINARY, Keys, Reaction, Script
from calls_mcp.emulator.transcripts import TranscriptEntry
from calls_mcp.emulator.voice.switchboard import Switchboard
from calls_mcp.emulator.webhooks import is_loopback

PREFIX = "/emulator"
LAST_MOMENT = datetime(9000, 1, 1, tzinfo=UTC).timestamp()
LATEST = 50
REFRESH = 2  # seconds
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 2rem; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: start; font-weight: 600; margin: 1.5rem 0 .4rem; }
th, td { border-bottom: 1px solid #8885; padding: .25rem .6rem .25rem 0; text-align: start; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
"""

_EVENT_NAMES = ("RecordingStatus", "StatusCallbackEvent", "CallStatus", "AnsweredBy")

Body = TypeVar("Body", bound=BaseModel)


class Link(NamedTuple):
    """A link to a page of the control API."""

    text: str
    path: str


Cell = str | float | Link | None


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Advance(_Body):
    """The body of a request that advances the clock, in seconds."""

    advance: float = Field(ge=0, le=10_000_000_000, allow_inf_nan=False)


class Press(_Body):
    """The keys that the other party presses."""

    keys: Keys


class Say(_Body):
    """What the other party says."""

    text: str = Field(min_length=1)


def _without_spaces(text: str) -> str:
    if text.split() != [text]:
        raise ValueError("must not be empty or contain spaces")
    return text


class Ring(_Body):
    """A call from outside to a number of the account."""

    to: str
    from_: Annotated[str, AfterValidator(_without_spaces)] = Field(alias="from")
    script: Script = ORDINARY


@dataclass(frozen=True)
class ControlApi:
    """The endpoints that show and control the emulator.

    Attributes:
        store: The calls.
        switchboard: Executes the instructions of the calls.
        sender: Sends the callbacks.
        clock: The clock.
        faults: The active faults.
        log: The request log.
    """

    store: CallStore
    switchboard: Switchboard
    sender: CallbackSender
    clock: AdjustableClock
    faults: FaultInjection
    log: RequestLog

    def application(self) -> Starlette:
        """Return the ASGI application of these endpoints."""
        faults = {"GET": self._faults, "POST": self._add_fault, "DELETE": self._clear_faults}
        endpoints: Mapping[str, Mapping[str, Endpoint]] = {
            "/": {"GET": self._page},
            "/requests": {"GET": self._requests},
            "/clock": {"GET": self._clock, "POST": self._advance},
            "/faults": faults,
            "/reset": {"POST": self._reset},
            "/calls": {"POST": self._ring},
            "/calls/{sid}/transcript": {"GET": self._transcript},
            "/calls/{sid}/transcript.txt": {"GET": self._transcript_text},
            "/calls/{sid}/press": {"POST": self._press},
            "/calls/{sid}/say": {"POST": self._say},
            "/calls/{sid}/hangup": {"POST": self._hang_up},
        }
        routes = [
            route(PREFIX + path, methods, _require_this_machine)
            for path, methods in endpoints.items()
        ]
        return Starlette(routes=routes, exception_handlers={ApiError: refuse})

    def reset(self) -> None:
        """Delete every call, fault and logged request, and reset the clock."""
        self.switchboard.clear()
        self.clock.reset()
        self.faults.clear()
        self.log.clear()

    async def _page(self, _: Request) -> Response:
        return HTMLResponse(
            _page(self), headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY}
        )

    async def _requests(self, _: Request) -> Response:
        return JSONResponse({"requests": [asdict(request) for request in self.log.requests]})

    async def _clock(self, _: Request) -> Response:
        now = self.clock()
        return JSONResponse({"now": datetime.fromtimestamp(now, UTC).isoformat(), "epoch": now})

    async def _advance(self, request: Request) -> Response:
        seconds = (await _read(request, Advance)).advance
        if self.clock() + seconds > LAST_MOMENT:
            raise invalid("advance: the clock cannot go beyond the year 9000.")
        await self.advance(seconds)
        return await self._clock(request)

    async def advance(self, seconds: float) -> None:
        """Advance the clock, and run everything that is due on the way, in order."""
        target = self.clock() + seconds
        while True:
            await self._settle()
            if (at := self.store.next_due()) > target:
                break
            self.clock.catch_up(at)
        self.clock.catch_up(target)
        await self._settle()

    async def _settle(self) -> None:
        """Wait for the responses to documents and callbacks, and to those that follow from them."""
        await self.switchboard.settle()
        while await self.sender.settle():
            await self.switchboard.settle()

    async def _ring(self, request: Request) -> Response:
        body = await _read(request, Ring)
        call = self.switchboard.ring(body.to, body.from_, body.script)
        return JSONResponse({"sid": call.sid}, 201)

    async def _transcript(self, request: Request) -> Response:
        call = call_in_path(request, self.store)
        entries = self.store.transcripts.of(call.sid)
        return JSONResponse({"transcript": [_entry(call, each) for each in entries]})

    async def _transcript_text(self, request: Request) -> Response:
        call = call_in_path(request, self.store)
        lines = (each.line(call.ring_at) for each in self.store.transcripts.of(call.sid))
        text = "".join(f"{line}\n" for line in lines) or "Nothing has happened in this call.\n"
        refresh = {"Refresh": str(REFRESH)} if call.live else {}  # for browsers
        return PlainTextResponse(text, headers=refresh)

    async def _press(self, request: Request) -> Response:
        return self._react(request, Reaction(at=0, press=(await _read(request, Press)).keys))

    async def _say(self, request: Request) -> Response:
        return self._react(request, Reaction(at=0, say=(await _read(request, Say)).text))

    async def _hang_up(self, request: Request) -> Response:
        return self._react(request, Reaction(at=0, hang_up=True))

    def _react(self, request: Request, reaction: Reaction) -> Response:
        with self.store.transaction():
            self.switchboard.react(call_in_path(request, self.store).sid, reaction)
        return Response(status_code=204)

    async def _faults(self, _: Request, status: int = 200) -> Response:
        armed = self.faults.armed
        faults: list[dict[str, Any]] = [
            {**each.fault.model_dump(exclude_none=True), "left": each.left} for each in armed
        ]
        return JSONResponse({"faults": faults}, status)

    async def _add_fault(self, request: Request) -> Response:
        fault = await _read(request, Fault)
        try:
            self.faults.add(fault)
        except ValueError as error:
            raise invalid(f"kind: {error}") from error
        return await self._faults(request, 201)

    async def _clear_faults(self, _: Request) -> Response:
        self.faults.clear()
        return Response(status_code=204)

    async def _reset(self, _: Request) -> Response:
        self.reset()
        return Response(status_code=204)


def _require_this_machine(request: Request) -> None:
    """Raise ApiError (403) for other machines, and for other sites in a local browser."""
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    to_loopback = is_loopback(urlsplit(f"//{host}").hostname or "")
    same_origin = origin is None or urlsplit(origin).netloc == host
    same_site = request.headers.get("sec-fetch-site", "none") in {"none", "same-origin"}
    is_link = request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"
    from_loopback = request.client is not None and is_loopback(request.client.host)
    if not (to_loopback and same_origin and (same_site or is_link) and from_loopback):
        raise ApiError(
            403,
            20003,
            "Only this machine can use the control API, at localhost or 127.0.0.1.",
        )


async def _read(request: Request, model: type[Body]) -> Body:
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        raise invalid(describe(error)) from error


def _entry(call: Call, entry: TranscriptEntry) -> Mapping[str, object]:
    """Return the JSON object of an entry; `seconds` count from the moment the call was dialed."""
    return {
        "seconds": round(entry.at - call.ring_at, 1),
        "event": entry.event,
        "text": entry.text,
        **entry.details,
    }


# The page for people, which loads nothing and refreshes itself


def _page(control: ControlApi) -> str:
    count = control.store.count()
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="{REFRESH}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Calls emulator</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Calls emulator</h1>
<p>{count} call{"" if count == 1 else "s"}. The clock shows {rfc2822(control.clock())}.</p>
{"".join(_tables(control))}
</body>
</html>
"""


def _tables(control: ControlApi) -> Iterator[str]:
    calls = control.store.page((), LATEST).items
    head = (
        "Status",
        "From",
        "To",
        "Direction",
        "Created",
        "Seconds",
        "Answered by",
        "Price",
        "Caller name",
        "Transcript",
    )
    yield _table("Latest calls", head, map(_call, calls))
    callbacks = (
        (_event(each), each.sid, f"{each.method} {each.url}", each.attempts, each.outcome)
        for each in control.store.callbacks.latest(LATEST)
    )
    head = "Event", "SID", "URL", "Attempts", "Outcome"
    yield _table("Latest callbacks", head, callbacks)
    requests = (
        (request.status or "none", request.method, request.path, request.query)
        for request in control.log.requests[: -LATEST - 1 : -1]
    )
    yield _table("Latest requests", ("Response", "Method", "Path", "Query"), requests)
    faults = (
        (armed.fault.kind, armed.fault.method or "any", armed.left, armed.fault.probability)
        for armed in control.faults.armed
    )
    yield _table("Active faults", ("Kind", "Method", "Requests", "Probability"), faults)


def _call(call: Call) -> Sequence[Cell]:
    who = call.status, call.from_, call.to, call.direction, rfc2822(call.created)
    transcript = Link(call.sid, f"/calls/{call.sid}/transcript.txt")
    return *who, call.duration, call.answered_by, price(call), call.caller_name, transcript


def _event(callback: Callback) -> Cell:
    names = (name for name in _EVENT_NAMES if name in callback.form)
    return callback.form.get(next(names, ""))


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    body = "\n".join(_row("td", row) for row in rows)
    if not body:
        return ""
    return f"""<table>
<caption>{escape(caption)}</caption>
<thead>{_row('th scope="col"', head)}</thead>
<tbody>
{body}
</tbody>
</table>"""


def _row(tag: str, values: Iterable[Cell]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_html(value)}</{tag[:2]}>' for value in values)}</tr>"


def _html(value: Cell) -> str:
    if isinstance(value, Link):
        return f'<a href="{PREFIX}{escape(value.path)}">{escape(value.text)}</a>'
    return "" if value is None else escape(str(value))
