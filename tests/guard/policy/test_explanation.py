"""What the operator reads of the policy."""

from typing import Any, get_args

import pytest

from calls_mcp.guard.policy import Requirement, explain, summary
from tests.guard.policy.cases import BERLIN, OTHER, SHIPPED, changed


def test_the_default_policy_is_explained_in_sentences() -> None:
    assert explain(SHIPPED) == [
        "Placing a call is confirmed by the user first.",
        "Redirecting a live call to other instructions is confirmed by the user first.",
        "Hanging up is confirmed by the user first.",
        "Any other change of a live call is confirmed by the user first.",
        "Deleting the record of a call is confirmed by the user first.",
        "Emergency numbers, and numbers too short to be a subscriber's, are never called.",
        "Numbers of the type premium_rate are refused.",
        "SIP addresses may all be called.",
        "Clients may all be called.",
        "The caller id may be any that the API accepts.",
        "The account may be any that the credentials reach.",
        "URLs may lead to any host on the public internet, by https.",
        "TwiML may be given as an argument, if it is well-formed and has no DOCTYPE.",
        "Elements and attributes of TwiML that the server does not know are refused.",
        (
            "The same rules apply to the URLs, numbers, caller IDs and recording in TwiML, "
            "but not to TwiML at a URL."
        ),
        "A call lasts at most 14400 seconds and rings for at most 600.",
        "Calls may not be recorded.",
        "In all: any number of calls.",
        "Each principal: any number of calls.",
        "Each principal may try 600 reads and 120 changes a minute.",
        "A number is called again within 30 seconds only if that is confirmed anew.",
    ]


@pytest.mark.parametrize(
    ("section", "rules", "sentence"),
    [
        ("confirm", {"place": "never"}, "Placing a call needs no confirmation."),
        ("confirm", {"delete": "deny"}, "Deleting the record of a call is refused."),
        (
            "confirm",
            {"hang_up": "require_human"},
            ("Hanging up is confirmed first by a human whom the client asks, or by the operator."),
        ),
        (
            "destinations",
            {"allow_prefixes": ("+49", "+43", "+41")},
            "Only numbers that begin with +49, +43 or +41 are called.",
        ),
        ("destinations", {"deny_countries": ("CU",)}, "Numbers in CU are refused."),
        ("destinations", {"allow_sip": ()}, "SIP addresses are never called."),
        (
            "destinations",
            {"allow_clients": ("agent-*",)},
            "Clients are called only if they match agent-*.",
        ),
        (
            "destinations",
            {"pre_approved": (BERLIN,)},
            f"Calls to {BERLIN} need no confirmation, unless placing calls is denied.",
        ),
        ("caller_ids", {"allow": ("+49*",)}, "The caller id must be +49*."),
        ("accounts", {"allow": (OTHER,)}, f"The account must be {OTHER}."),
        (
            "urls",
            {"hosts": ("a.com", "b.com"), "https_only": False},
            "URLs may lead to a.com or b.com, by http or https.",
        ),
        (
            "twiml",
            {"unknown": True},
            "Elements and attributes of TwiML that the server does not know are not checked.",
        ),
        ("urls", {"hosts": ()}, "URLs may lead to no host at all, by https."),
        ("twiml", {"inline": False}, "TwiML is refused as an argument."),
        ("caps", {"record": True}, "Calls may be recorded."),
        (
            "caps",
            {"calls_per_day": 9, "in_flight": 2},
            "In all: at most 9 calls a day, 2 calls at the same time.",
        ),
        ("caps", {"same_number_seconds": 0}, "A number may be called again at once."),
    ],
)
def test_every_section_is_explained(section: str, rules: dict[str, Any], sentence: str) -> None:
    assert sentence in explain(changed(section, **rules))


@pytest.mark.parametrize("requirement", get_args(Requirement))
def test_every_requirement_is_told_at_length_and_in_short(requirement: Requirement) -> None:
    policy = changed("confirm", delete=requirement)
    assert explain(policy)[4].startswith("Deleting the record of a call ")
    assert any(line.endswith("delete.") for line in summary(policy))
