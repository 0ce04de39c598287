"""Finding out whether a change whose answer was lost took effect."""

from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import anyio

from calls_mcp.arguments import Arguments
from calls_mcp.catalog import Json
from calls_mcp.errors import InvocationError, NotFound
from calls_mcp.guard import action_of
from calls_mcp.outcome import CallSummary, Outcome
from calls_mcp.summary import Unreadable, summarize
from calls_mcp.wire import Request

Send = Callable[[Request], Awaitable[Mapping[str, Json]]]

_LOOKS = (0.0, 0.5, 1.5)  # seconds before each; a new call may take a moment to be listed
_CLOCKS_DIFFER = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Lost:
    """A change that was sent, at `since`, and whose answer did not come.

    `known` are the calls that this server had placed before: none of them is the one looked for.
    """

    arguments: Arguments
    request: Request
    since: datetime
    known: AbstractSet[str]


async def find_out(send: Send, lost: Lost) -> Outcome | None:
    """The outcome, if it can be told for certain that the change took effect; else None."""
    for pause in _LOOKS:
        await anyio.sleep(pause)
        try:
            outcome = await _look(send, lost)
        except InvocationError:
            return None
        if outcome is not None:
            return outcome
    return None


async def _look(send: Send, lost: Lost) -> Outcome | None:
    match action_of(lost.arguments):
        case "place":
            return await _look_for_new_call(send, lost)
        case "delete":
            return await _look_for_deletion(send, lost)
        case "hang_up":
            return await _look_for_end(send, lost)
        case _:  # nothing the API tells of a call says what it was redirected to
            return None


async def _look_for_deletion(send: Send, lost: Lost) -> Outcome | None:
    try:
        await send(lost.request.as_fetch())
    except NotFound:
        return {"outcome": "done", "deleted": lost.request.sid, "recovered": True}
    return None


async def _look_for_end(send: Send, lost: Lost) -> Outcome | None:
    call = _summary(await send(lost.request.as_fetch()))
    if call is None or call["sid"] != lost.request.sid or call.get("live") is not False:
        return None
    return {"outcome": "done", "call": call, "recovered": True}


async def _look_for_new_call(send: Send, lost: Lost) -> Outcome | None:
    page = await send(lost.request.as_search())
    entries = page.get("calls")
    calls = map(_summary, entries if isinstance(entries, list) else [])
    found = [call for call in calls if call is not None and _may_be(call, lost)]
    if len(found) != 1:  # several may be anybody's
        return None
    return {"outcome": "done", "call": found[0], "recovered": True}


def _may_be(call: CallSummary, lost: Lost) -> bool:
    """Whether it is an outbound leg, created since the request began, that we did not know of."""
    created = call.get("created_at")
    return (
        call.get("direction") == "outbound-api"
        and call["sid"] not in lost.known
        and created is not None
        and datetime.fromisoformat(created) >= lost.since.astimezone(UTC) - _CLOCKS_DIFFER
    )


def _summary(payload: Json | Mapping[str, Json]) -> CallSummary | None:
    try:
        return summarize(payload) if isinstance(payload, Mapping) else None
    except Unreadable:
        return None
