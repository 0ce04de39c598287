"""The sentences that explain a policy to the operator."""

from typing import Any, get_args

import pytest

from calls_mcp.guard.policy.explanation import explain, summary
from calls_mcp.guard.policy.rules import ALWAYS, NEVER, CountryHours, Requirement, Span
from tests.guard.policy.cases import BERLIN, OTHER, SHIPPED, changed


def test_the_default_policy_is_explained_in_sentences() -> None:
    assert explain(SHIPPED) == [
        "Placing a call needs the user's confirmation.",
        "Redirecting a live call to other instructions needs the user's confirmation.",
        "Hanging up needs the user's confirmation.",
        "Any other change to a live call needs the user's confirmation.",
        "Deleting the record of a call needs the user's confirmation.",
        "Emergency numbers and numbers too short to be a phone number are never called.",
        "Numbers of type premium_rate are refused.",
        "All SIP addresses can be called.",
        "All clients (client:name) can be called.",
        "All caller IDs that the API accepts are allowed.",
        "All accounts that the credentials can use are allowed.",
        "Only https URLs are allowed.",
        "TwiML is allowed as an argument if it is well-formed and has no DOCTYPE.",
        "Unknown elements and attributes in TwiML are refused.",
        (
            "The same rules apply to the URLs, numbers, caller IDs, recording, time limits and "
            "timeouts in TwiML, but not to TwiML at a URL."
        ),
        "Numbers can be called from 08:00 to 21:00 (their local time).",
        (
            "At other times, a call needs at least the user's confirmation, even if the number is "
            "pre-approved."
        ),
        "A call lasts at most 4 h and rings for at most 10 min.",
        "Recording calls is not allowed.",
        "In total: no limit on calls.",
        "Each principal: no limit on calls.",
        "Each principal may attempt at most 600 reads and at most 120 changes a minute.",
        "A second call to the same number within 30 s needs a confirmation.",
    ]


@pytest.mark.parametrize(
    ("section", "rules", "sentence"),
    [
        ("confirm", {"place": "never"}, "Placing a call needs no confirmation."),
        ("confirm", {"delete": "deny"}, "Deleting the record of a call is refused."),
        (
            "confirm",
            {"hang_up": "require_human"},
            "Hanging up needs the user's confirmation in the client, or the operator's approval.",
        ),
        (
            "destinations",
            {"allow_prefixes": ("+49", "+43", "+41")},
            "Only numbers that begin with +49, +43 or +41 can be called.",
        ),
        ("destinations", {"deny_countries": ("CU",)}, "Numbers in CU are refused."),
        (
            "destinations",
            {"deny_file": "/lists/no.txt"},
            "Numbers on the do-not-call list (deny_file) are refused.",
        ),
        (
            "destinations",
            {"allow_file": "/lists/yes.txt"},
            "Only numbers on the list of allowed numbers (allow_file) can be called.",
        ),
        ("destinations", {"allow_sip": ()}, "SIP addresses can't be called."),
        (
            "destinations",
            {"allow_clients": ("agent-*",)},
            "Only clients (client:name) that match agent-* can be called.",
        ),
        (
            "destinations",
            {"pre_approved": (BERLIN,)},
            (
                f"Calls to {BERLIN} need no confirmation, unless they use a URL, press keys, have "
                "an application_sid, or dial other numbers in TwiML."
            ),
        ),
        ("caller_ids", {"allow": ("+49*",)}, "Allowed caller IDs: +49*."),
        ("accounts", {"allow": (OTHER,)}, f"Allowed accounts: {OTHER}."),
        (
            "urls",
            {"hosts": ("a.com", "b.com"), "https_only": False},
            "Only http or https URLs on a.com or b.com are allowed.",
        ),
        (
            "twiml",
            {"unknown": True},
            "Unknown elements and attributes in TwiML are not checked.",
        ),
        (
            "hours",
            {"sunday": NEVER, "saturday": Span(600, 1080)},
            (
                "Numbers can be called from 08:00 to 21:00, but on Saturdays from 10:00 to 18:00, "
                "and not on Sundays (their local time)."
            ),
        ),
        (
            "hours",
            {"daily": NEVER, "sunday": NEVER, "monday": Span(600, 660)},
            "Numbers can be called on Mondays from 10:00 to 11:00 (their local time).",
        ),
        ("hours", {"daily": ALWAYS}, "Numbers can be called at any time of the day."),
        (
            "hours",
            {"daily": NEVER, "sunday": NEVER, "outside": "operator"},
            "All times count as outside calling hours, so a call needs the operator's approval.",
        ),
        (
            "hours",
            {"countries": {"DE": CountryHours(daily=NEVER, outside="deny")}},
            "In DE, all times count as outside calling hours, so a call is refused.",
        ),
        (
            "hours",
            {"countries": {"DE": CountryHours(daily=ALWAYS, outside="deny")}},
            "In DE, numbers can be called at any time of the day.",
        ),
        ("hours", {"outside": "deny"}, "At other times, a call is refused."),
        (
            "hours",
            {"unknown": "operator"},
            "If the local time is unknown, a call needs the operator's approval.",
        ),
        (
            "hours",
            {"countries": {"DE": CountryHours(sunday=NEVER, outside="deny")}},
            (
                "In DE, numbers can be called from 08:00 to 21:00, except on Sundays; at other "
                "times, a call is refused."
            ),
        ),
        ("urls", {"hosts": ()}, "URLs are not allowed."),
        ("twiml", {"inline": False}, "The arguments twiml and say are not allowed."),
        ("caps", {"record": True}, "Recording calls is allowed."),
        (
            "caps",
            {"calls_per_day": 9, "in_flight": 1, "minutes_per_day": 60},
            "In total: at most 9 calls a day, 1 call at a time, 60 min of talk time a day.",
        ),
        (
            "caps",
            {"reads_per_minute": 0, "changes_per_minute": 1},
            "Each principal may attempt any number of reads and at most 1 change a minute.",
        ),
        (
            "caps",
            {"time_limit": 90, "timeout": 60},
            "A call lasts at most 90 s and rings for at most 1 min.",
        ),
        (
            "caps",
            {"same_number_per_day": 1, "same_number_per_week": 3},
            "The same number gets at most 1 call a day and 3 calls a week.",
        ),
        ("caps", {"same_number_seconds": 0}, "The same number may be called again immediately."),
    ],
)
def test_every_section_is_explained(section: str, rules: dict[str, Any], sentence: str) -> None:
    assert sentence in explain(changed(section, **rules))


@pytest.mark.parametrize("requirement", get_args(Requirement))
def test_every_requirement_is_explained_in_full_and_in_the_summary(
    requirement: Requirement,
) -> None:
    policy = changed("confirm", delete=requirement)
    assert explain(policy)[4].startswith("Deleting the record of a call ")
    assert any(line.endswith("delete.") for line in summary(policy))
