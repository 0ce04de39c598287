"""Apply the policy to one invocation. It is stateless; `limits` counts calls."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, get_args

from calls_mcp.errors import PolicyDenied
from calls_mcp.guard.policy.destinations import (
    allows_caller,
    object_to_destination,
    pre_approves,
)
from calls_mcp.guard.policy.rules import CallerIds, Caps, Objection, Policy, Requirement
from calls_mcp.guard.policy.tool_call_rules import judge_account, object_to_account
from calls_mcp.guard.policy.twiml import (
    dialed,
    may_reach_others,
    messaged,
    object_to_twiml,
)
from calls_mcp.guard.policy.urls import object_to_url
from calls_mcp.tools.catalog import INSTRUCTIONS, Action, Json

if TYPE_CHECKING:
    from calls_mcp.tools.validation import Arguments  # which would load jsonschema at start

_STRICTNESS: tuple[Requirement, ...] = get_args(Requirement)
_REDIRECTING = INSTRUCTIONS | {"method", "fallback_method"}
_ADDRESSING = frozenset({"sid", "account_sid", "status"})

_DENIED = "Do not look for a workaround. Tell your user that the operator does not allow this."


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an invocation needs before it is sent, and the `rule` that requires it.

    `arguments` include those that the policy sets. Their names are in `added`, and `notes` say so.
    """

    requirement: Requirement
    rule: str
    arguments: "Arguments"
    notes: tuple[str, ...] = ()
    added: frozenset[str] = frozenset()


def judge(
    policy: Policy,
    arguments: "Arguments",
    account_sid: str,
    others: Iterable[Objection] = (),
    *,
    can_be_pre_approved: bool = True,
) -> Judgement:
    """Apply the policy to an invocation on an account. For a read, only the account matters.

    `others` are objections that the policy alone does not show, such as those of calling hours.
    `can_be_pre_approved` says whether pre-approved numbers count.

    Raises:
        PolicyDenied: Names all rules that refuse it.
    """
    if arguments.operation.read_only:
        judge_account(policy, account_sid)
        return Judgement("never", "accounts.allow", arguments)
    requirement, rule = _requirement(policy, arguments)
    exempt = rule == "confirm.place" and requirement in ("confirm", "require_human")
    if can_be_pre_approved and exempt and _is_pre_approved(policy, arguments):
        requirement, rule = "never", "destinations.pre_approved"
    if requirement == "deny":
        raise PolicyDenied(rule, "it allows no change of this kind", _DENIED)
    account = object_to_account(policy, account_sid)
    _refuse(chain(account, _objections(policy, arguments), others))
    added = dict(_added(policy.caps, arguments))
    if not added:
        return Judgement(requirement, rule, arguments)
    whole = replace(arguments, values={**arguments.values, **added})
    notes = (
        f"the operator's policy sets {name} to {value} seconds" for name, value in added.items()
    )
    return Judgement(requirement, rule, whole, tuple(notes), frozenset(added))


def strictest(needs: Mapping[Requirement, str]) -> tuple[Requirement, str]:
    """Return the strictest of some requirements, each with its rule."""
    requirement = max(needs, key=_STRICTNESS.index)
    return requirement, needs[requirement]


def _refuse(objections: Iterator[Objection]) -> None:
    for first in objections:
        others = [*dict.fromkeys(other for other in objections if other != first)]
        told = (f"({other.rule}): {other.reason}" for other in others)
        hints = dict.fromkeys([first.hint, *(other.hint for other in others)])
        raise PolicyDenied(first.rule, "; ".join([first.reason, *told]), " ".join(hints))


def _requirement(policy: Policy, arguments: "Arguments") -> tuple[Requirement, str]:
    """Return the strictest requirement of the request's actions, and its rule."""
    confirm = policy.confirm
    needs: dict[Requirement, str] = {}
    for action in _actions(arguments):
        needs.setdefault(confirm.of(action), f"confirm.{action}")
    return strictest(needs)


def _is_pre_approved(policy: Policy, arguments: "Arguments") -> bool:
    """Return whether all parties of a call are pre-approved, and it can't reach others."""
    values = arguments.values
    has_unchosen_url = policy.urls.allow_any_host and values.keys() & (INSTRUCTIONS - {"twiml"})
    has_unchosen_party = "twiml" in values and may_reach_others(policy.urls, str(values["twiml"]))
    is_unseen = values.keys() & {"application_sid", "send_digits"}
    if is_unseen or has_unchosen_url or has_unchosen_party:
        return False
    return all(pre_approves(policy.destinations, to) for to in parties(arguments))


def parties(arguments: "Arguments") -> tuple[str, ...]:
    """Return the parties of a change: `to`, and all that TwiML in an argument dials or messages."""
    values = arguments.values
    placed = [str(values["to"])] if arguments.operation.effect == "place" else []
    twiml = str(values.get("twiml", ""))
    return (*placed, *dialed(twiml), *messaged(twiml))


def _actions(arguments: "Arguments") -> Iterator[Action]:
    """Yield all actions of a change: with both status and url, a call may also be redirected."""
    yield arguments.action
    if arguments.operation.effect == "change":
        given = arguments.values.keys()
        if given & INSTRUCTIONS:
            yield "redirect"
        if given - _REDIRECTING - _ADDRESSING:
            yield "modify"


def _objections(policy: Policy, arguments: "Arguments") -> Iterator[Objection]:
    # Arguments that the API would ignore are checked too.
    values = arguments.values
    if arguments.operation.effect == "place":
        yield from object_to_destination(policy.destinations, str(values["to"]))
        yield from _object_to_callers(policy.caller_ids, values)
    for name, url in _urls(arguments):
        yield from object_to_url(policy.urls, name, url)
    if "twiml" in values:
        yield from _object_to_twiml(policy, arguments)
    yield from _object_to_excess(policy.caps, values)


def _object_to_callers(rules: CallerIds, values: Mapping[str, Json]) -> Iterator[Objection]:
    for name in ("from", "caller_id"):
        if rules.allow and name in values and not allows_caller(rules.allow, str(values[name])):
            reason = f"{name} is not an allowed caller ID"
            hint = "Use another number of the account, or ask the operator to allow this one."
            yield Objection("caller_ids.allow", reason, hint)


def _urls(arguments: "Arguments") -> Iterator[tuple[str, str]]:
    for name, value in arguments.values.items():
        if arguments.operation.parameters[name].type.asserts.get("format") == "http-url":
            yield name, str(value)


def _object_to_twiml(policy: Policy, arguments: "Arguments") -> Iterator[Objection]:
    if not policy.twiml.inline:
        hint = "Use url instead, or ask the operator to allow twiml and say."
        yield Objection("twiml.inline", "twiml and say are not allowed", hint)
    values = arguments.values
    is_limited = arguments.operation.effect == "place" or (
        "time_limit" in values.keys() - arguments.ignored
    )
    yield from object_to_twiml(policy, str(values["twiml"]), is_limited=is_limited)


def _object_to_excess(caps: Caps, values: Mapping[str, Json]) -> Iterator[Objection]:
    for name, ceiling in (("time_limit", caps.time_limit), ("timeout", caps.timeout)):
        value = values.get(name)
        if isinstance(value, int) and 0 < ceiling < value:
            reason = f"{name} is {value} seconds, and the limit is {ceiling}"
            yield Objection(
                f"caps.{name}", reason, f"Use a {name} of {ceiling} or less, or leave it out."
            )
    if values.get("record") is True and not caps.record:
        hint = "Leave record out, or ask the operator to allow recording."
        yield Objection("caps.record", "recording calls is not allowed", hint)


def _added(caps: Caps, arguments: "Arguments") -> Iterator[tuple[str, Json]]:
    """Yield the limits to set on a new call where the API's default exceeds them."""
    if arguments.operation.effect != "place":
        return
    if caps.time_limit and "time_limit" not in arguments.values:
        yield "time_limit", caps.time_limit
    usual = arguments.operation.parameters["timeout"].schema["default"]
    if "timeout" not in arguments.values and isinstance(usual, int) and caps.timeout < usual:
        yield "timeout", caps.timeout
