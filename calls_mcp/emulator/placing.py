"""Creates: from a form to the records a new call leaves."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import cast

from calls_mcp.emulator.addresses import is_phone_number
from calls_mcp.emulator.call import Call
from calls_mcp.emulator.errors import invalid
from calls_mcp.emulator.lifecycle import (
    DEFAULT_TIME_LIMIT,
    DEFAULT_TIMEOUT,
    Detection,
    finding,
    plan,
)
from calls_mcp.emulator.rules import CREATE, Pairs, Values, checked, single
from calls_mcp.emulator.scripts import INVALID_FROM, VALID_FROM, Scenario, Script
from calls_mcp.emulator.twiml import hangs_up_after

EVENTS = "StatusCallbackEvent"
INSTRUCTIONS = ("Url", "Twiml", "ApplicationSid")


@dataclass(frozen=True)
class Placer:
    """Turns forms into calls.

    Attributes:
        owned: The numbers of the account.
        scenario: What the destinations do.
        any_from: Whether a call may come from any other number, too.
    """

    owned: Collection[str]
    scenario: Scenario
    any_from: bool = False

    def placed(self, form: Pairs, now: float, ring_at: float) -> tuple[Call, ...]:
        """The records of the call that the form asks for: the outbound leg is the first.

        Args:
            form: The parameters as they came.
            now: The time in seconds since the epoch.
            ring_at: When its turn to be dialled comes.

        Raises:
            ApiError: 400, if no such call can be placed.
        """
        values = _complete(form)
        to, from_ = values["To"][0], values["From"][0]
        script = self.scenario.script_of(to)
        _check_from(to, from_)
        if is_phone_number(from_) and not self.any_from and from_ not in {VALID_FROM, *self.owned}:
            raise invalid(f"From {from_} is not a number of this account, nor verified.", 21210)
        outbound = _outbound(values, script, now, ring_at)
        return _both_legs(outbound) if to in self.owned else (outbound,)


def _complete(form: Pairs) -> Values:
    given = tuple(pair for pair in form if pair[1] or pair[0] not in {"To", "From"})
    values = checked(given, CREATE)
    if "To" not in values:
        raise invalid("No 'To' number is specified.", 21201)
    if "From" not in values:
        raise invalid("A 'From' phone number is required.", 21213)
    if not any(name in values for name in INSTRUCTIONS):
        raise invalid(f"One of {', '.join(INSTRUCTIONS)} is required.", 21205)
    return values


def _check_from(to: str, from_: str) -> None:
    if from_ == INVALID_FROM:
        raise invalid(f"From {from_} is not a valid phone number.", 21212)
    if is_phone_number(to) and not is_phone_number(from_):
        raise invalid("To call a phone number, From must be a phone number, too.", 21212)


def _outbound(values: Values, script: Script, now: float, ring_at: float) -> Call:
    timeout = int(single(values, "Timeout") or DEFAULT_TIMEOUT)
    time_limit = int(single(values, "TimeLimit") or DEFAULT_TIME_LIMIT)
    url = single(values, "Url")
    twiml = None if url else single(values, "Twiml")
    hang_up = hangs_up_after(twiml) if twiml else None
    life = plan(
        script, ring_at, timeout, time_limit if hang_up is None else min(time_limit, hang_up)
    )
    told = "ApplicationSid" not in values
    return Call(
        sid=new_sid(),
        to=values["To"][0],
        from_=values["From"][0],
        direction="outbound-api",
        status="queued",
        created=now,
        updated=now,
        ring_at=life.ring_at,
        answer_at=life.answer_at,
        end_at=life.end_at,
        end_as=life.end_as,
        leaves_at=life.leaves_at,
        hangs_up_at=None if hang_up is None else (life.answer_at or now) + hang_up,
        time_limit=time_limit,
        detects=_detects(values, script),
        queue_ms=round((ring_at - now) * 1000),
        url=url,
        twiml=twiml,
        fixed_price=script.price,
        callback_url=single(values, "StatusCallback") if told else None,
        callback_method=single(values, "StatusCallbackMethod") or "POST",
        callback_events=" ".join(values.get(EVENTS, ("completed",))),
    )


def _detects(values: Values, script: Script) -> str | None:
    detection = single(values, "MachineDetection")
    if detection is None or "SendDigits" in values:
        return None
    return finding(cast("Detection", detection), script.answered_by)


def _both_legs(outbound: Call) -> tuple[Call, Call]:
    inbound = replace(
        outbound,
        sid=new_sid(),
        direction="inbound",
        detects=None,
        queue_ms=0,
        peer_sid=outbound.sid,
        url=None,
        twiml=None,
        fixed_price=None,
        callback_url=None,
    )
    return replace(outbound, peer_sid=inbound.sid), inbound


def new_sid() -> str:
    """A call SID that nobody has seen before."""
    return f"CA{secrets.token_hex(16)}"
