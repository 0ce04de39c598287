"""The shipped policy, others made from it, and arguments to judge."""

from dataclasses import replace
from typing import Any

import pytest

from calls_mcp.errors import PolicyDenied
from calls_mcp.guard.policy.evaluation import judge
from calls_mcp.guard.policy.rules import Policy, load_policy
from calls_mcp.tools.catalog import Json, load_operations
from calls_mcp.tools.validation import Arguments, validate

ACCOUNT = "AC" + "0" * 32
OTHER = "AC" + "1" * 32
CALL = "CA" + "0" * 32
TWIML = "<Response><Say>Hello</Say></Response>"
BERLIN = "+493012345678"
PREMIUM = "+19005551234"
SWISS = "+41446681800"

SHIPPED = load_policy()
OPERATIONS = load_operations()


def asked(tool: str = "create_call", **values: Json) -> Arguments:
    """Return arguments of a tool; for create_call, with its required ones."""
    basis: dict[str, Json] = {}
    if tool == "create_call":
        basis = {"to": BERLIN, "from": "+15005550006"}
        if not values.keys() & {"application_sid", "say", "twiml", "url"}:
            basis["twiml"] = TWIML
    if tool in ("update_call", "delete_call", "fetch_call"):
        basis = {"sid": CALL}
    return validate(OPERATIONS[tool], basis | values)


def changed(section: str, **values: object) -> Policy:
    """The shipped policy with other values in a section."""
    rules: Any = replace(getattr(SHIPPED, section), **values)
    return replace(SHIPPED, **{section: rules})


def refusal(policy: Policy, arguments: Arguments) -> PolicyDenied:
    with pytest.raises(PolicyDenied) as denied:
        judge(policy, arguments, ACCOUNT)
    return denied.value


def ruling(policy: Policy, arguments: Arguments) -> str:
    """Return the rule that refuses, or nothing."""
    try:
        judge(policy, arguments, ACCOUNT)
    except PolicyDenied as denied:
        return denied.rule
    return ""
