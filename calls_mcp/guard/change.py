"""A change that somebody asks for, and the decision about it."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import cast

from calls_mcp.audit import NOBODY, Authority, Decision, Entry
from calls_mcp.errors import InvocationError, PolicyDenied
from calls_mcp.guard.policy import Policy, Requirement, action_of, canonical, judge, parties
from calls_mcp.storage import Binding
from calls_mcp.tools.outcome import Caller, Outcome
from calls_mcp.tools.validation import Arguments
from calls_mcp.twilio.requests import Request, encode

_LONGEST_CALL = 14_400  # seconds, unless time_limit says otherwise
_LONGEST_QUEUE = 600  # seconds until it rings


@dataclass(frozen=True, slots=True)
class Dialling:
    """The parties that a change rings, each in its canonical spelling.

    `lifetime` is how many seconds from now the call will have ended at the latest; `until` is when
    all must be settled (by anyio's clock). `is_new_call` is false for a live call whose new TwiML
    dials.
    """

    parties: tuple[str, ...]
    is_new_call: bool
    account_sid: str
    principal: str
    lifetime: int
    until: float


@dataclass(frozen=True, slots=True)
class Change:
    """What is asked for, by whom, until when (by anyio's clock) it must be answered.

    `requirement` and `rule` are what the policy demands of it. `binding` is what a confirmation of
    it is valid for. `dialling` says whom it rings, None if nobody.
    """

    arguments: Arguments
    request: Request
    caller: Caller
    until: float
    requirement: Requirement
    rule: str
    binding: Binding
    dialling: Dialling | None

    @property
    def places_call(self) -> bool:
        """Return whether it places a new call."""
        return self.request.effect == "place"

    def entry(self, decision: Decision, authority: Authority = NOBODY, rule: str = "") -> Entry:
        """Return the audit log's entry for a decision about it."""
        account_sid = self.request.account_sid
        return audit_entry(
            self.arguments, account_sid, self.caller, decision, rule or self.rule, authority
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """The one right to act on a confirmation; the holder must settle it.

    `state` is what must still be true, as the preview showed it.
    """

    identifier: str
    state: str


@dataclass(frozen=True, slots=True)
class Proceed:
    """The decision to carry a change out, and on whose authority."""

    change: Change
    authority: Authority = NOBODY
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """The decision not to, and what the client gets instead.

    Without a `decision` nothing was decided yet, and nothing is recorded. `rule` is what decided,
    if it is another than the one that the policy demands.
    """

    decision: Decision | None
    outcome: Outcome
    authority: Authority = NOBODY
    rule: str = ""

    @classmethod
    def failed(cls, error: InvocationError, authority: Authority = NOBODY) -> "Stop":
        """Return the decision that follows from an error."""
        rule = error.rule if isinstance(error, PolicyDenied) else ""
        return cls("denied", Outcome.from_error(error), authority, rule)


def authorize(
    policy: Policy, arguments: Arguments, caller: Caller, account_sid: str, until: float
) -> Change:
    """Return the change that is asked for, as the policy lets it pass.

    Raises:
        PolicyDenied: It does not.
    """
    judgement = judge(policy, arguments, account_sid)
    warnings = (*arguments.warnings, *judgement.notes)
    arguments = replace(judgement.arguments, warnings=warnings)
    request = encode(arguments, account_sid)
    return Change(
        arguments=arguments,
        request=request,
        caller=caller,
        until=until,
        requirement=judgement.requirement,
        rule=judgement.rule,
        binding=_bind(arguments, account_sid, caller.principal),
        dialling=_dialling(arguments, account_sid, caller.principal, until),
    )


def _bind(arguments: Arguments, account_sid: str, principal: str) -> Binding:
    """Return what a confirmation is valid for; the digest covers every argument."""
    exact = json.dumps([account_sid, arguments.values], sort_keys=True)
    digest = hashlib.sha256(exact.encode()).hexdigest()
    return Binding(arguments.operation.name, digest, principal)


def _dialling(
    arguments: Arguments, account_sid: str, principal: str, until: float
) -> Dialling | None:
    called = tuple(sorted({*map(canonical, parties(arguments))}))  # all reserve in one order
    if not called:
        return None
    values = arguments.values
    limits = (values.get("time_limit", _LONGEST_CALL), values.get("timeout", 60))
    lifetime = _LONGEST_QUEUE + sum(cast("tuple[int, int]", limits))
    is_new_call = arguments.operation.effect == "place"
    return Dialling(called, is_new_call, account_sid, principal, lifetime, until)


def audit_entry(
    arguments: Arguments,
    account_sid: str,
    caller: Caller,
    decision: Decision,
    rule: str,
    authority: Authority,
) -> Entry:
    """Return the audit log's entry for a decision about what `caller` asks for."""
    return Entry(
        principal=caller.principal,
        operation=arguments.operation,
        action=action_of(arguments),
        arguments=arguments.values,
        decision=decision,
        account_sid=account_sid,
        sid=str(arguments.values.get("sid", "")),
        rule=rule,
        authority=authority,
        trace_id=caller.trace_id,
        request_id=caller.request_id,
    )
