"""Failures on demand, between a client and the API."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calls_mcp.emulator.journal import HANG_UP
from calls_mcp.emulator.parameters import ApiError

TOO_MANY_REQUESTS = 20429
HTML = "<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>"

_USES: Mapping[str, frozenset[str]] = {
    "drop": frozenset({"after"}),
    "delay": frozenset({"seconds"}),
    "rate-limit": frozenset({"retry_after"}),
    "error": frozenset({"after", "status"}),
    "html": frozenset({"after", "status"}),
    "truncate": frozenset(),
}


class Fault(BaseModel):
    """What goes wrong, for which requests.

    Attributes:
        kind: `drop` closes the connection without an answer, `delay` answers late, `rate-limit`
            is a 429, `error` an error of the API, `html` one of a proxy, and `truncate` the
            right answer without its second half.
        after: Whether the request is acted on before a `drop`, `error` or `html`.
        seconds: How long a `delay` is.
        status: The HTTP status of an `error` (503 by default) or `html` (502).
        retry_after: Seconds that a `rate-limit` asks to wait.
        method: Which requests; None for any.
        requests: For how many requests it is there: for 1 by default, without an end if there
            is a probability.
        probability: How likely each of those fails.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["drop", "delay", "rate-limit", "error", "html", "truncate"]
    after: bool = False
    seconds: float = Field(default=1, ge=0, le=600)
    status: int | None = Field(default=None, ge=400, le=599)
    retry_after: int = Field(default=1, ge=0)
    method: Literal["GET", "POST", "DELETE"] | None = None
    requests: int | None = Field(default=None, ge=1)
    probability: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _uses_every_field_that_is_set(self) -> Self:
        given = self.model_fields_set - {"kind", "method", "requests", "probability"}
        if odd := sorted(given - _USES[self.kind]):
            raise ValueError(f"{self.kind} does not use {', '.join(odd)}")
        return self


@dataclass
class Armed:
    """A fault, and for how many more requests it is there; None for all."""

    fault: Fault
    left: int | None


class Faults:
    """The faults to come. The oldest one that matches a request strikes it."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Remove all faults."""
        self._random = Random(0)  # noqa: S311 - repeatable, not secret
        self._armed: list[Armed] = []

    def add(self, fault: Fault) -> None:
        """Add a fault."""
        left = 1 if fault.requests is None and fault.probability is None else fault.requests
        self._armed.append(Armed(fault, left))

    @property
    def armed(self) -> tuple[Armed, ...]:
        """The faults to come."""
        return tuple(self._armed)

    def strike(self, method: str) -> Fault | None:
        """Return the fault that strikes this request, and count it."""
        for armed in self.armed:
            if armed.fault.method in {None, method} and self._hits(armed):
                return armed.fault
        return None

    def _hits(self, armed: Armed) -> bool:
        if armed.left is not None:
            armed.left -= 1
            if not armed.left:
                self._armed.remove(armed)
        probability = armed.fault.probability
        return probability is None or self._random.random() < probability


class Faulty:
    """ASGI middleware in which faults strike."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does, unless a fault strikes."""
        fault = self._faults.strike(cast("str", scope["method"]))
        if fault is None:
            await self._app(scope, receive, send)
        elif fault.kind == "delay":
            try:
                await asyncio.sleep(fault.seconds)
            except asyncio.CancelledError:  # the server stops: that answer never comes
                await send({"type": HANG_UP})
                return
            await self._app(scope, receive, send)
        elif fault.kind == "truncate":
            await self._app(scope, receive, _halved(send))
            await send({"type": HANG_UP})
        else:
            if fault.after:
                await self._app(scope, receive, _unheard)
            answer = _ANSWERS[fault.kind](fault)
            await (answer(scope, receive, send) if answer else send({"type": HANG_UP}))


def _error(fault: Fault) -> Response:
    status = fault.status or 503
    refusal = ApiError(status, 20_000 + status, "The service failed, as it was asked to.")
    return JSONResponse(refusal.body(), status)


def _rate_limit(fault: Fault) -> Response:
    refusal = ApiError(429, TOO_MANY_REQUESTS, "Too Many Requests")
    return JSONResponse(refusal.body(), 429, {"Retry-After": str(fault.retry_after)})


def _html(fault: Fault) -> Response:
    status = fault.status or 502
    return HTMLResponse(HTML.format(status=status), status)


_ANSWERS: Mapping[str, Callable[[Fault], Response | None]] = {
    "drop": lambda _: None,
    "error": _error,
    "html": _html,
    "rate-limit": _rate_limit,
}


async def _unheard(_: Message) -> None:
    """Discard the application's answer."""


def _halved(send: Send) -> Send:
    async def half(message: Message) -> None:
        if message["type"] == "http.response.body":
            body = cast("bytes", message.get("body", b""))
            message = {**message, "body": body[: len(body) // 2], "more_body": True}
        await send(message)

    return half
