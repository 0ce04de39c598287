"""The requirements of an invocation, and the limits that apply to it as a whole."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from calls_mcp.errors import PolicyDenied
from calls_mcp.guard.policy.evaluation import Judgement, judge
from calls_mcp.guard.policy.rules import Requirement
from calls_mcp.guard.policy.tool_call_rules import judge_account
from calls_mcp.tools.catalog import Confirm
from calls_mcp.tools.outcome import Failure
from calls_mcp.tools.validation import Arguments
from tests.guard.policy.cases import (
    ACCOUNT,
    OTHER,
    PREMIUM,
    SHIPPED,
    TWIML,
    asked,
    changed,
    refusal,
    ruling,
)


@pytest.mark.parametrize(
    ("tool", "values", "action"),
    [
        ("create_call", {}, "place"),
        ("update_call", {"url": "https://example.com/"}, "redirect"),
        ("update_call", {"twiml": TWIML}, "redirect"),
        ("update_call", {"fallback_url": "https://example.com/"}, "redirect"),
        ("update_call", {"status": "completed"}, "hang_up"),
        ("update_call", {"time_limit": 60}, "modify"),
        ("delete_call", {}, "delete"),
    ],
)
@pytest.mark.parametrize("requirement", ["never", "confirm", "require_human"])
def test_each_kind_of_change_has_the_requirement_of_its_rule(
    tool: str, values: dict[str, Any], action: str, requirement: Requirement
) -> None:
    judgement = judge(changed("confirm", **{action: requirement}), asked(tool, **values), ACCOUNT)
    assert (judgement.requirement, judgement.rule) == (requirement, f"confirm.{action}")
    denied = refusal(changed("confirm", **{action: "deny"}), asked(tool, **values))
    assert denied.rule == f"confirm.{action}"


@pytest.mark.parametrize(
    ("values", "rules", "expected"),
    [
        ({"status": "canceled", "url": "https://example.com/"}, {"redirect": "deny"}, "redirect"),
        (
            {"time_limit": 60, "fallback_url": "https://example.com/", "fallback_method": "GET"},
            {"redirect": "deny"},
            "redirect",
        ),
        ({"fallback_url": "https://example.com/"}, {"modify": "deny"}, ""),
        ({"status": "canceled", "time_limit": 60}, {"modify": "deny"}, "modify"),
        ({"twiml": TWIML, "time_limit": 60}, {"modify": "deny"}, "modify"),
        ({"url": "https://example.com/", "method": "GET"}, {"modify": "deny"}, ""),
        ({"status": "completed"}, {"modify": "deny", "redirect": "deny"}, ""),
    ],
)
def test_the_strictest_rule_applies_to_a_request_with_several_changes(
    values: dict[str, Any], rules: dict[str, Any], expected: str
) -> None:
    rule = ruling(changed("confirm", **rules), asked("update_call", **values))
    assert rule == (f"confirm.{expected}" if expected else "")


@pytest.mark.parametrize("tool", ["fetch_call", "list_calls"])
def test_only_the_account_of_a_read_is_checked(tool: str) -> None:
    judgement = judge(SHIPPED, asked(tool), ACCOUNT)
    assert (judgement.requirement, judgement.notes) == ("never", ())
    assert ruling(changed("accounts", allow=(OTHER,)), asked(tool)) == "accounts.allow"


@pytest.mark.parametrize(
    ("setting", "place", "delete"),
    [
        ("all", "confirm", "confirm"),
        ("destructive", "never", "confirm"),
        ("none", "never", "never"),
        ("operator", "operator", "operator"),
    ],
)
def test_calls_mcp_confirm_replaces_the_requirement_confirm(
    setting: Confirm, place: Requirement, delete: Requirement
) -> None:
    policy = SHIPPED.under(setting)
    assert (policy.confirm.place, policy.confirm.delete) == (place, delete)
    assert replace(policy, confirm=SHIPPED.confirm) == SHIPPED


@pytest.mark.parametrize("setting", ["all", "destructive", "none", "operator"])
@pytest.mark.parametrize("strict", ["require_human", "deny"])
def test_calls_mcp_confirm_never_loosens_a_stricter_requirement(
    setting: Confirm, strict: Requirement
) -> None:
    everything = dict.fromkeys(("place", "redirect", "hang_up", "modify", "delete"), strict)
    policy = changed("confirm", **everything)
    assert policy.under(setting) == policy


@pytest.mark.parametrize(
    ("allow", "values", "refused"),
    [
        ((), {}, False),
        (("+1500*",), {}, False),
        (("+15005550006",), {}, False),
        (("+49*",), {}, True),
        (("+1500*",), {"caller_id": "+493012345678"}, True),
        (("+1500*", "client:*"), {"caller_id": "client:alice"}, False),
        (("+1500*",), {"caller_id": "+15005550006@example.com"}, True),
        (("+1500*", "*@a.com"), {"caller_id": "bob@a.com"}, False),
        (("+1500*", "*@a.com"), {"caller_id": "bob@b.com;c=@a.com"}, True),
        (("*",), {"caller_id": "bob@example.com"}, False),
    ],
)
def test_only_allowed_caller_ids_are_accepted(
    allow: tuple[str, ...], values: dict[str, Any], *, refused: bool
) -> None:
    rule = ruling(changed("caller_ids", allow=allow), asked(**values))
    assert rule == ("caller_ids.allow" if refused else "")


def test_only_allowed_accounts_are_accepted() -> None:
    policy = changed("accounts", allow=(ACCOUNT,))
    judge_account(policy, ACCOUNT)
    judge_account(SHIPPED, OTHER)
    assert ruling(policy, asked()) == ""
    with pytest.raises(PolicyDenied, match=r"accounts\.allow"):
        judge(policy, asked(), OTHER)


@pytest.mark.parametrize(
    ("caps", "values", "rule"),
    [
        ({}, {"time_limit": 14400}, ""),
        ({}, {"time_limit": 14401}, "caps.time_limit"),
        ({"time_limit": 60}, {"time_limit": 61}, "caps.time_limit"),
        ({"timeout": 20}, {"timeout": 20}, ""),
        ({"timeout": 20}, {"timeout": 21}, "caps.timeout"),
        ({}, {"record": True}, "caps.record"),
        ({}, {"record": False}, ""),
        ({"record": True}, {"record": True}, ""),
    ],
)
def test_a_value_above_a_limit_is_refused(
    caps: dict[str, Any], values: dict[str, Any], rule: str
) -> None:
    assert ruling(changed("caps", **caps), asked(**values)) == rule
    if "time_limit" in values:
        assert ruling(changed("caps", **caps), asked("update_call", **values)) == rule


def test_each_hint_about_a_limit_names_the_argument() -> None:
    denied = refusal(changed("caps", timeout=20), asked(time_limit=14401, timeout=21))
    assert denied.hint == (
        "Use a time_limit of 14400 or less, or leave it out. "
        "Use a timeout of 20 or less, or leave it out."
    )


def added(judgement: Judgement, arguments: Arguments) -> Mapping[str, object]:
    before = arguments.values.items()
    assert before <= judgement.arguments.values.items()
    return dict(judgement.arguments.values.items() - before)


@pytest.mark.parametrize(
    ("caps", "values", "expected"),
    [
        ({}, {}, {"time_limit": 14400}),
        ({"time_limit": 60, "timeout": 20}, {}, {"time_limit": 60, "timeout": 20}),
        ({"timeout": 60}, {}, {"time_limit": 14400}),
        ({"timeout": 59}, {"time_limit": 9, "timeout": 8}, {}),
    ],
)
def test_a_limit_is_set_on_a_new_call_without_one(
    caps: dict[str, Any], values: dict[str, Any], expected: dict[str, int]
) -> None:
    arguments = asked(**values)
    judgement = judge(changed("caps", **caps), arguments, ACCOUNT)
    assert added(judgement, arguments) == expected
    assert judgement.notes == tuple(
        f"the operator's policy sets {name} to {value} seconds" for name, value in expected.items()
    )


@pytest.mark.parametrize("tool", ["update_call", "delete_call"])
def test_no_limit_is_set_on_an_existing_call(tool: str) -> None:
    arguments = asked(tool, **({"status": "completed"} if tool == "update_call" else {}))
    judgement = judge(changed("caps", timeout=5), arguments, ACCOUNT)
    assert judgement.arguments is arguments
    assert judgement.notes == ()


def test_a_refusal_names_every_rule_that_refuses() -> None:
    arguments = asked(to=PREMIUM, url="http://example.com/", record=True)
    denied = refusal(SHIPPED, arguments)
    assert denied.rule == "destinations.deny_number_types"
    for told in (
        "(urls.https_only): url is not an https URL",
        "(caps.record): recording calls is not allowed",
    ):
        assert told in denied.message
    for told in ("Ask your user for another number", "Use an https URL", "Leave record out"):
        assert told in denied.hint


def test_a_refusal_has_its_rule_a_reason_and_a_hint() -> None:
    failure = Failure.from_error(refusal(SHIPPED, asked(to=PREMIUM)))
    assert failure.content() == {
        "kind": "policy_denied",
        "message": "Nothing was sent. The operator's policy refuses this "
        "(destinations.deny_number_types): `to` is a number of type premium_rate.",
        "hint": "Ask your user for another number or address, "
        "or ask the operator to allow this one.",
        "retryable": False,
    }
