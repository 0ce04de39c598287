"""A change (an invocation that changes something), and the decision about it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, cast

from calls_mcp.audit.records import NOBODY, Authority, Decision, Entry
from calls_mcp.errors import InvocationError, PolicyDenied
from calls_mcp.guard.policy.destinations import party
from calls_mcp.guard.policy.evaluation import judge, parties, strictest
from calls_mcp.guard.policy.rules import Caps, Hours, Objection, Policy, Requirement
from calls_mcp.guard.twiml_document import dialed_at_once
from calls_mcp.observability.redaction import quoted
from calls_mcp.storage.records import DAY, Binding
from calls_mcp.tools.call_summary import LONGEST_ADDRESS, CallSummary
from calls_mcp.tools.humanize import plain
from calls_mcp.tools.outcome import Caller, Outcome
from calls_mcp.tools.validation import Arguments
from calls_mcp.twilio.requests import Request, encode

if TYPE_CHECKING:
    from calls_mcp.guard.calling_hours import OutsideHours

LONGEST_CALL = 14_400  # seconds, unless time_limit says otherwise
_LONGEST_QUEUE = 600  # seconds until it rings


@dataclass(frozen=True, slots=True)
class Dialing:
    """The parties that a change calls, once for each call, each in its canonical spelling.

    There are none if a live call only gets a new time limit. Then `at_once`, the most calls that
    are live at the same time, is 0. `sid` is the live call that is changed; empty for a new
    call. Each lasts at most `longest` seconds, or `extended` seconds if it is changed later; after
    `lifetime` seconds they have certainly ended. `until` is the invocation's deadline (anyio's
    clock).
    """

    parties: tuple[str, ...]
    at_once: int
    sid: str
    principal: str
    longest: int
    extended: int
    lifetime: int
    until: float


@dataclass(frozen=True, slots=True)
class Change:
    """A requested change. It must be answered by `until` (anyio's clock).

    `requirement` and `rule` come from the policy. It sets the arguments in `added`, and `notes` say
    so. A confirmation is valid only for its `binding`. `dialing` has the parties that it calls, if
    any, and `outside_hours` those that are called outside calling hours.
    """

    arguments: Arguments
    request: Request
    caller: Caller
    until: float
    requirement: Requirement
    rule: str
    binding: Binding
    dialing: Dialing | None
    notes: tuple[str, ...] = ()
    added: frozenset[str] = frozenset()
    outside_hours: tuple["OutsideHours", ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a result must say about the arguments."""
        return (*self.arguments.warnings, *self.notes)

    @property
    def places_call(self) -> bool:
        """Whether the change places a new call."""
        return self.request.effect == "place"

    def entry(self, decision: Decision, authority: Authority = NOBODY, rule: str = "") -> Entry:
        """Return the audit entry for a decision about this change."""
        account_sid = self.request.account_sid
        return audit_entry(
            self.arguments, account_sid, self.caller, decision, rule or self.rule, authority
        )


@dataclass(frozen=True, slots=True)
class Stop:
    """The decision not to send a change, and the outcome for the client.

    Without a `decision`, nothing was decided yet, and nothing is recorded. `rule` is the deciding
    rule if it differs from the change's.
    """

    decision: Decision | None
    outcome: Outcome
    authority: Authority = NOBODY
    rule: str = ""

    @classmethod
    def failed(cls, error: InvocationError, authority: Authority = NOBODY) -> "Stop":
        """Return the decision for an error."""
        rule = error.rule if isinstance(error, PolicyDenied) else ""
        return cls("refused", Outcome.from_error(error), authority, rule)


def apply_policy(
    policy: Policy,
    arguments: Arguments,
    caller: Caller,
    account_sid: str,
    until: float,
    now: datetime,
) -> Change:
    """Return the change requested at the time `now` (UTC) with the values that the policy adds.

    Raises:
        PolicyDenied: The policy refuses it.
    """
    late = _outside_hours(policy.hours, [*dict.fromkeys(_called(arguments))], now)
    denied = [Objection(x.rule, x.reason, x.hint) for x in late if x.requirement == "deny"]
    is_usual = all(each.requirement == "never" for each in late)
    judgement = judge(policy, arguments, account_sid, denied, can_be_pre_approved=is_usual)
    arguments = judgement.arguments
    request = encode(arguments, account_sid)
    dialing = _dialing(policy.caps, arguments, caller.principal, until)
    needs: dict[Requirement, str] = {judgement.requirement: judgement.rule}
    for each in late:
        needs.setdefault(each.requirement, each.rule)
    requirement, rule = strictest(needs)
    return Change(
        arguments=arguments,
        request=request,
        caller=caller,
        until=until,
        requirement=requirement,
        rule=rule,
        binding=_bind(arguments, account_sid, caller.principal),
        dialing=dialing,
        notes=judgement.notes,
        added=judgement.added,
        outside_hours=late,
    )


def _called(arguments: Arguments) -> tuple[str, ...]:
    """Return the parties that a change calls, once for each call, in alphabetical order."""
    return tuple(sorted(map(party, parties(arguments))))


def _outside_hours(
    hours: Hours, called: Sequence[str], now: datetime
) -> tuple["OutsideHours", ...]:
    if not called:
        return ()
    from calls_mcp.guard.calling_hours import outside_hours  # noqa: PLC0415  # 60 ms, for numbers

    return outside_hours(hours, called, now)


def _bind(arguments: Arguments, account_sid: str, principal: str) -> Binding:
    """Return the binding of a confirmation. Its digest covers every argument."""
    exact = json.dumps([account_sid, arguments.values], sort_keys=True)
    digest = hashlib.sha256(exact.encode()).hexdigest()
    return Binding(arguments.operation.name, digest, principal)


def _dialing(caps: Caps, arguments: Arguments, principal: str, until: float) -> Dialing | None:
    called, values = _called(arguments), arguments.values
    is_extended = "time_limit" in values and values.get("status") != "completed"
    if not (called or is_extended):
        return None
    limits = (values.get("time_limit", LONGEST_CALL), values.get("timeout", 60))
    longest, ringing = cast("tuple[int, int]", limits)
    extended = max(longest, caps.time_limit or DAY)
    at_once = dialed_at_once(str(values.get("twiml", "")))
    return Dialing(
        parties=called,
        at_once=at_once + (arguments.operation.effect == "place"),
        sid=str(values.get("sid", "")),
        principal=principal,
        longest=longest,
        extended=extended,
        lifetime=_LONGEST_QUEUE + extended + ringing,
        until=until,
    )


def audit_entry(
    arguments: Arguments,
    account_sid: str,
    caller: Caller,
    decision: Decision,
    rule: str,
    authority: Authority,
) -> Entry:
    """Return the audit entry for a decision about an invocation of `caller`."""
    return Entry(
        principal=caller.principal,
        operation=arguments.operation,
        action=arguments.action,
        arguments=arguments.values,
        decision=decision,
        account_sid=account_sid,
        sid=str(arguments.values.get("sid", "")),
        rule=rule,
        authority=authority,
        trace_id=caller.trace_id,
        request_id=caller.request_id,
    )


def status_of(call: CallSummary | None) -> str:
    """Return the status of a call in words, such as "in progress"; None is a new one."""
    status = call.status if call else "not placed yet"
    return plain(status) if status else "in an unknown state"


def state_of(call: CallSummary) -> str:
    """Return the state of a call in words, with the parties, which strangers chose, in quotes."""
    return f"{status_of(call)}{parties_of(call)}"


def parties_of(call: CallSummary) -> str:
    """Return the end of `state_of` that names the parties."""
    return f" from {_quoted(call.from_)} to {_quoted(call.to)}"


def _quoted(address: str | None) -> str:
    return quoted(address, LONGEST_ADDRESS) if address else "unknown"
