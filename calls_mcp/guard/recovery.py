"""Finding out whether a change whose answer was lost took effect."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import anyio

from calls_mcp.errors import InvocationError, NotDone, NotFound, OutcomeUnknown
from calls_mcp.guard.preview import action_of
from calls_mcp.tools.call_summary import NotACall, summarize
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.outcome import CallSummary, Outcome
from calls_mcp.tools.validation import Arguments
from calls_mcp.twilio.requests import Request
from calls_mcp.twilio.responses import Response

Send = Callable[[Request], Awaitable[Response]]
IsTaken = Callable[[str], Awaitable[bool]]
"""Whether the call of this SID is known to be another than the one looked for."""

_LOOKS = (0.0, 0.5, 1.5)  # seconds before each; a new call may take a moment to be listed
_CLOCKS_DIFFER = timedelta(seconds=2)
_HANGING_UP = frozenset({"sid", "account_sid", "status"})
_GATEWAYS = frozenset({408, 502, 504})  # which answer while the request may still be under way


@dataclass(frozen=True, slots=True)
class Lost:
    """A change that was sent, at `since`, and whose answer did not come: then `error` is known.

    `is_taken` tells of a call that may be the one looked for whether it surely is another.
    """

    arguments: Arguments
    request: Request
    since: datetime
    is_taken: IsTaken
    error: OutcomeUnknown

    @property
    def is_over(self) -> bool:
        """Whether the API was done with the request: it answered, if with nothing of use."""
        return self.error.status is not None and self.error.status not in _GATEWAYS


async def find_out(send: Send, lost: Lost) -> Outcome | None:
    """The outcome, if it is certain whether the change took effect; else None."""
    outcome = None
    for pause in _LOOKS:
        await anyio.sleep(pause)
        try:
            outcome = await _look(send, lost)
        except InvocationError:
            return None
        if outcome is not None and outcome.outcome == "done":
            return outcome
    return outcome


async def _look(send: Send, lost: Lost) -> Outcome | None:
    """What is seen now: that the change is done, or that it is not; None if neither is sure."""
    match action_of(lost.arguments):
        case "place":
            return await _look_for_new_call(send, lost)
        case "delete":
            return await _look_for_deletion(send, lost)
        case "hang_up":
            return await _look_for_end(send, lost)
        case _:
            return await _look_at_changed(send, lost)


async def _look_for_deletion(send: Send, lost: Lost) -> Outcome | None:
    try:
        call = _summary((await send(lost.request.as_fetch())).payload)
    except NotFound as gone:
        if not gone.is_sure:
            raise
        return Outcome(outcome="done", deleted=lost.request.sid, recovered=True)
    return _not_done(lost, "the record is still there") if _is_it(call, lost) else None


async def _look_for_end(send: Send, lost: Lost) -> Outcome | None:
    call = _summary((await send(lost.request.as_fetch())).payload)
    if call is None or not _is_it(call, lost):
        return None
    if call.live and lost.arguments.values.keys() - _HANGING_UP:
        return None  # it may have been redirected, or changed otherwise
    if call.live:
        return _not_done(lost, f"the call is still {call.status or 'live'}")
    if call.live is None:
        return None
    return Outcome(outcome="done", call=call, recovered=True)


async def _look_at_changed(send: Send, lost: Lost) -> None:
    """Nothing the API tells of a call says where it was redirected to, but it says how it is."""
    call = _summary((await send(lost.request.as_fetch())).payload)
    if call is not None and _is_it(call, lost) and call.status:
        seen = f"The call is {call.status} now."
        lost.error.message = f"{lost.error.message.removesuffix(seen).rstrip()} {seen}"


def _is_it(call: CallSummary | None, lost: Lost) -> bool:
    return call is not None and call.sid == lost.request.sid


def _not_done(lost: Lost, seen: str) -> Outcome | None:
    """Only if no request is still under way, and a repeat of it would do no harm if one were."""
    if not lost.is_over:
        return None
    status = lost.error.status
    message = f"This did not take effect: the API answered {status}, and {seen}."
    return Outcome.from_error(NotDone(message, status=status))


async def _look_for_new_call(send: Send, lost: Lost) -> Outcome | None:
    entries = (await send(lost.request.as_search())).payload.get("calls")
    calls = map(_summary, entries if isinstance(entries, list) else [])
    likely = [call for call in calls if call is not None and _may_be(call, lost)]
    found = [call for call in likely if not await lost.is_taken(call.sid)]
    if len(found) != 1:  # several may be anybody's
        return None
    return Outcome(outcome="done", call=found[0], recovered=True)


def _may_be(call: CallSummary, lost: Lost) -> bool:
    """Whether it is an outbound leg, created since the request began."""
    created = call.created_at
    return (
        call.direction == "outbound-api"
        and created is not None
        and datetime.fromisoformat(created) >= lost.since.astimezone(UTC) - _CLOCKS_DIFFER
    )


def _summary(payload: Json | Mapping[str, Json]) -> CallSummary | None:
    try:
        return summarize(payload) if isinstance(payload, Mapping) else None
    except NotACall:
        return None
