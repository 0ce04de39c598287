"""Validation of arguments, and the faults that a model gets.

`PROPERTY_EXAMPLES` is the number of examples for each property, over all tools.
"""

import math
import os
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Literal, cast
from urllib.parse import unquote, urlsplit

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mcp_types import CallToolResult

from calls_mcp.emulator import LoggedRequest
from calls_mcp.errors import Fault, InvalidArguments
from calls_mcp.observability.redaction import MASK
from calls_mcp.tools.call_summary import summarize
from calls_mcp.tools.catalog import Json, Rule, load_operations
from calls_mcp.tools.validation import Arguments, validate
from tests.generate import definitions
from tests.harness import (
    CALLER,
    ERAS,
    TALKS_FOR_AN_HOUR,
    TWIML,
    Agent,
    Harness,
    open_harness,
    placing,
    structured,
    text_of,
)
from tests.strategies import (
    BASES,
    PARAMETERS,
    SID,
    TOOLS,
    Sending,
    any_arguments,
    broken_arguments,
    expected_sending,
    is_accepted,
    published_arguments,
    right_arguments,
    sample,
    satisfies,
    sending,
    unpublished_fault,
)

EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "100"))

# A busy machine generates data slowly, and all examples of a tool run on one server.
THOROUGH = settings(
    max_examples=max(1, EXAMPLES // len(TOOLS)),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

ACCOUNT_SID = "an account SID (AC and 32 hex digits)"
CALL_SID = "a call SID (CA and 32 hex digits)"
PARTY = (
    "a phone number in E.164 format (+ and country code), sip:name@host without a password, "
    "or client:name"
)
URL = "an absolute http or https URL in ASCII"
CALLBACK_URL = "an absolute http or https URL in ASCII, without an underscore in its host name"
DATE = "a valid UTC date (YYYY-MM-DD), or a date-time with a time zone (2026-01-31T09:00:00Z)"
SECONDS = "a whole number of seconds from 1 to 600"
BOOLEAN = "true or false, without quotes"
TEXT = "a string of 1 to 4096 characters"
DIGITS = "1 to 32 of the characters 0-9, A-D, #, *, w (a pause of 0.5 s) and W (1 s)"
EVENTS = "a list, without duplicates, of one or more of initiated, ringing, answered, completed"
UNDERSCORED = "https://a_b.example/"
CLEAN = re.compile(r", without invisible characters \(found U\+[0-9A-F]{4,6}\)$")
OVERRIDE = "\N{RIGHT-TO-LEFT OVERRIDE}"


def checked(tool: str, arguments: Mapping[str, object]) -> Arguments:
    return validate(load_operations()[tool], cast("Mapping[str, Json]", arguments))


def faults(tool: str, arguments: Mapping[str, object]) -> dict[str, Fault]:
    """The faults by argument name, of which each may be reported only once."""
    with pytest.raises(InvalidArguments) as error:
        checked(tool, arguments)
    told = error.value.faults
    by_name = {fault.path.removeprefix("/"): fault for fault in told}
    assert len(by_name) == len(told)
    return by_name


def fault_of(tool: str, name: str, value: object) -> Fault:
    """The only fault of otherwise valid arguments."""
    (only,) = faults(tool, {**BASES[tool], name: value}).items()
    assert only[0] == name
    return only[1]


# Texts of faults


Row = tuple[str, str, object, str, str]
FAULTS: list[Row] = [
    ("create_call", "to", None, PARTY, "null"),
    ("create_call", "to", "", PARTY, '"" (empty)'),
    ("create_call", "to", [], PARTY, "[] (empty)"),
    ("create_call", "to", "1", PARTY, '"1"'),
    ("create_call", "timeout", 601, SECONDS, "601"),
    ("create_call", "timeout", 0, SECONDS, "0"),
    ("create_call", "timeout", 1.5, SECONDS, "1.5"),
    ("create_call", "timeout", 10**30, SECONDS, "a number that is far out of range"),
    ("create_call", "timeout", True, SECONDS, "true"),
    ("create_call", "timeout", {"seconds": 5}, SECONDS, "an object"),
    ("create_call", "time_limit", 0, "a whole number of seconds, 1 or more", "0"),
    ("create_call", "record", 1, BOOLEAN, "1"),
    ("create_call", "record", "yes", BOOLEAN, '"yes"'),
    (
        "create_call",
        "status_callback_event",
        ["ringing", "ringing", "hung-up", 1, [2], {}],
        EVENTS,
        '["ringing", "ringing", "hung-up", 1, a list, …]',
    ),
    ("create_call", "method", "HEAD", "GET or POST", '"HEAD"'),
    ("create_call", "send_digits", "12E", DIGITS, '"12E"'),
    ("create_call", "send_digits", "1" * 33, DIGITS, f'"{"1" * 33}"'),
    (
        "create_call",
        "twiml",
        "x" * 4001,
        "TwiML of at most 4000 characters",
        f'"{"x" * 79}…"',
    ),
    ("create_call", "url", "example.com", URL, '"example.com"'),
    ("create_call", "url", "https://", URL, '"https://"'),
    ("create_call", "url", "https://[::1", URL, '"https://[::1"'),
    ("create_call", "status_callback", UNDERSCORED, CALLBACK_URL, f'"{UNDERSCORED}"'),
    ("fetch_call", "sid", "CA1", CALL_SID, '"CA1"'),
    ("list_calls", "limit", 10_001, "a whole number from 1 to 10000", "10001"),
    ("list_calls", "start_time", "2026-02-30", DATE, '"2026-02-30"'),
    ("list_calls", "cursor", [1], "the token exactly as this server returned it", "[1]"),
]


@pytest.mark.parametrize(("tool", "name", "value", "expected", "received"), FAULTS)
def test_a_fault_says_what_was_expected_and_received(  # a table's columns
    tool: str, name: str, value: object, expected: str, received: str
) -> None:
    fault = fault_of(tool, name, value)
    assert fault.path == f"/{name}"
    assert fault.expected == expected
    assert fault.received == received
    assert fault.did_you_mean is None


@pytest.mark.parametrize("tool", TOOLS)
def test_every_example_in_a_fault_would_be_accepted(tool: str) -> None:
    for name, parameter in load_operations()[tool].parameters.items():
        left_out = ("twiml",) if name == "say" else ()
        base = {key: value for key, value in BASES[tool].items() if key not in left_out}
        base |= {"wait_until": "ended"} if name == "wait_seconds" else {}
        example = faults(tool, {**base, name: {}})[name].example
        if example is None:
            is_own, is_boolean = parameter.location == "own", parameter.schema["type"] == "boolean"
            assert is_own or is_boolean or parameter.choices or parameter.secret
        else:
            checked(tool, {**base, name: example})


@pytest.mark.parametrize(
    ("tool", "name", "value", "meant"),
    [
        ("create_call", "timeout", "30", 30),
        ("create_call", "timeout", " 30 ", 30),
        ("create_call", "record", "true", True),
        ("create_call", "record", "False", False),
        ("create_call", "to", "+1 (500) 555-0006", "+15005550006"),
        ("create_call", "to", "1-500-555-0006", "+15005550006"),
        ("create_call", "to", " +15005550006\n", "+15005550006"),
        ("create_call", "to", 15005550006, "+15005550006"),
        ("create_call", "to", "+44 (0)20 7946 0018", "+442079460018"),
        ("create_call", "url", "HTTPS://Example.com/A", "https://Example.com/A"),
        ("create_call", "call_reason", 7, "7"),
        ("create_call", "method", "get", "GET"),
        ("create_call", "machine_detection", "enable", "Enable"),
        ("create_call", "machine_detection", "detectmessageend", "DetectMessageEnd"),
        ("create_call", "trim", "Do-Not-Trim", "do-not-trim"),
        ("create_call", "status_callback_event", "completed", ["completed"]),
        ("create_call", "status_callback_event", "initiated, ringing", ["initiated", "ringing"]),
        ("create_call", "status_callback_event", ["Initiated", "rings"], ["initiated", "ringing"]),
        ("create_call", "send_digits", "12 34", "1234"),
        ("create_call", "timeout", ["30"], 30),
        ("fetch_call", "sid", SID + "\n", SID),
        ("list_calls", "status", "In Progress", "in-progress"),
        ("list_calls", "status", "cancelled", "canceled"),
        ("list_calls", "start_time", "2026/01/31", "2026-01-31"),
        ("list_calls", "end_time_before", "2024-02-29T24:00:00Z", "2024-03-01T00:00:00Z"),
        ("list_calls", "start_time_after", "2026-01-31 09:00:00Z", "2026-01-31T09:00:00Z"),
        ("list_calls", "start_time_after", "2026-01-31T09:00:00", "2026-01-31T09:00:00Z"),
        ("list_calls", "start_time_after", ">= 2026-01-31", "2026-01-31"),
        ("list_calls", "end_time_before", "<2026-01-31", "2026-01-31"),
        ("update_call", "status", "Completed", "completed"),
        ("update_call", "status", "complete", "completed"),
        ("list_calls", "status", "NoAnswer", "no-answer"),
        ("list_calls", "status", "no_answer", "no-answer"),
        ("list_calls", "status", "inprogress", "in-progress"),
        ("list_calls", "status", "complted", "completed"),
    ],
)
def test_a_nearly_valid_value_gets_a_suggestion(
    tool: str, name: str, value: object, meant: object
) -> None:
    guessed = fault_of(tool, name, value).did_you_mean
    assert guessed == meant
    assert type(guessed) is type(meant)
    assert checked(tool, {**BASES[tool], name: guessed}).values[name] == meant


@pytest.mark.parametrize(
    ("tool", "name", "values"),
    [
        ("create_call", "to", ["nonsense", "", "+", "0", "tel:+15005550006", "9" * 300]),
        ("create_call", "to", ["5005550006", "(500) 555-0006", "020 7946 0018"]),  # which country?
        ("create_call", "to", ["sip:bob smith@example.com", "client:b b"]),
        ("create_call", "caller_id", ["al ice@exa-mple.com"]),
        ("create_call", "confirmation_token", ["abc.d ef"]),
        ("create_call", "sip_auth_username", [" \n"]),
        ("list_calls", "cursor", ["abc.d ef"]),
    ],
)
def test_addresses_texts_and_tokens_are_never_guessed(
    tool: str, name: str, values: list[str]
) -> None:
    assert {fault_of(tool, name, value).did_you_mean for value in values} == {None}


def test_an_argument_that_is_wrong_in_two_ways_is_reported_once() -> None:
    told = faults("create_call", placing(**{"from": "sip:bob smith@example.com"}))
    assert [*told] == ["from"]


@pytest.mark.requirement("06")
@pytest.mark.parametrize(
    ("tool", "name", "meant"),
    [
        ("create_call", "To", "to"),
        ("create_call", "StatusCallback", "status_callback"),
        ("create_call", "statusCallbackEvent", "status_callback_event"),
        ("create_call", "status-callback", "status_callback"),
        ("create_call", "SIP_AUTH_PASSWORD", "sip_auth_password"),
        ("create_call", "machine_detecton", "machine_detection"),
        ("create_call", "confirmationToken", "confirmation_token"),
        ("create_call", "confirm_token", "confirmation_token"),
        ("fetch_call", "Sid", "sid"),
        ("fetch_call", "call_sid", "sid"),
        ("update_call", "callSid", "sid"),
        ("create_call", "call_to", "to"),
        ("list_calls", "StartTime>", "start_time_after"),
        ("list_calls", "StartTimeBefore", "start_time_before"),
        ("list_calls", "StartTime<", "start_time_before"),
        ("list_calls", "StartTime<=", "start_time_before"),
        ("list_calls", "StartTime>=", "start_time_after"),
        ("list_calls", "EndTime<=", "end_time_before"),
        ("list_calls", "EndTime >=", "end_time_after"),
        ("list_calls", "EndTime%3E", "end_time_after"),
        ("list_calls", "start_time>", "start_time_after"),
        ("list_calls", "end_time<=", "end_time_before"),
        ("list_calls", "start_time_befor", "start_time_before"),
        ("list_calls", "PageSize", "page_size"),
    ],
)
def test_a_misspelt_argument_name_gets_a_suggestion(tool: str, name: str, meant: str) -> None:
    told = faults(tool, {**BASES[tool], name: "?"})
    assert told[name] == Fault(
        path=f"/{name}",
        expected="a known argument",
        received=f'"{name}"',
        did_you_mean=meant,
    )


def test_a_value_under_a_misspelt_name_is_also_checked() -> None:
    told = faults("create_call", {"To": "0123", "From": "client:bob", "twiml": TWIML})
    assert [*told] == ["To", "From", "to", "from"]
    told = faults("create_call", placing(SIPAuthPassword=["secret"]))
    assert told["sip_auth_password"].received == MASK


def test_rules_apply_to_values_under_misspelt_names() -> None:
    told = faults("create_call", {"To": "+15005550006", "From": "client:bob", "twiml": TWIML})
    assert [*told] == ["To", "From", "from"]
    assert told["from"].expected == "a phone number, because to is a phone number"


def test_an_argument_name_is_escaped_as_a_json_pointer() -> None:
    assert [*faults("fetch_call", {"sid": SID, "a/b~c": 1})] == ["a~1b~0c"]


def test_an_invisible_character_is_named_by_its_code_point() -> None:
    told = fault_of("create_call", "twiml", "<Response>\N{SOFT HYPHEN}</Response>")
    assert told.expected.endswith(", without invisible characters (found U+00AD)")


BYPASSES = (
    *("confirm", "confirmed", "force", "_meta", "meta", "approve", "approved", "approval", "yes"),
    *("skip_confirmation", "dry_run", "sandbox", "user_approved", "can_ask", "by", "principal"),
    *("requestState", "request_state", "inputResponses", "input_responses", "elicitation"),
    *("CALLS_MCP_CONFIRM", "env", "headers", "policy", "base_url", "region", "", "body", "x"),
)


@pytest.mark.requirement("07", "31")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.anyio
async def test_no_argument_bypasses_the_confirmation(
    harness: Harness, era: Literal["auto", "legacy"]
) -> None:
    async with harness.connect(era) as agent:
        token = (await agent.call("create_call", **placing()))["confirmation"]["token"]
        for name in BYPASSES:
            for value in (True, {"confirm": {"action": "accept"}, "approve": True}):
                arguments = placing(confirmation_token=token) | {name: value}
                error = (await agent.call("create_call", **arguments))["error"]
                assert error["kind"] == "invalid_arguments"
                assert [fault["path"] for fault in error["faults"]] == [f"/{name}"]
    assert harness.emulator.requests == ()


@pytest.mark.parametrize("tool", TOOLS)
def test_a_missing_argument_is_reported_with_an_example(tool: str) -> None:
    required = definitions()[tool]["inputSchema"].get("required", [])
    for name in required:
        rest = {key: value for key, value in BASES[tool].items() if key != name}
        fault = faults(tool, rest)[name]
        assert fault.received == "nothing"
        checked(tool, {**rest, name: fault.example})


@pytest.mark.anyio
async def test_all_faults_are_reported_at_once_as_text_and_data(harness: Harness) -> None:
    wrong: dict[str, object] = {
        "To": TALKS_FOR_AN_HOUR,
        "frm": CALLER,
        "zebra": 1,
        "timeout": "30",
        "record": "yes",
        "method": "get",
        "url": "ftp://example.com",
        "status_callback_event": ["answered", "hung-up"],
        "sip_auth_password": 1234,
    }
    async with harness.connect() as agent:
        result = await agent.client.call_tool("create_call", wrong)
    error, text = structured(result)["error"], text_of(result)
    assert result.is_error
    assert error["message"] == "Nothing was sent because 9 arguments are wrong."
    told = {fault["path"]: fault.get("did_you_mean") for fault in error["faults"]}
    assert told == {
        "/To": "to",
        "/frm": "from",
        "/zebra": None,
        "/timeout": 30,
        "/record": None,
        "/method": "GET",
        "/url": None,
        "/status_callback_event": None,
        "/sip_auth_password": None,
    }
    first, *lines, last = text.splitlines()
    assert first == f"invalid_arguments: {error['message']}"
    assert len(lines) == 9
    assert '- unknown argument "To"; did you mean "to"?' in lines
    assert '- unknown argument "zebra"' in lines
    assert f'- timeout: got "30"; expected {SECONDS}; did you mean 30?' in lines
    assert last == "Fix all of these and try again."
    assert harness.emulator.requests == ()


# Secrets


@pytest.mark.requirement("16")
@pytest.mark.parametrize("name", ["sip_auth_password", "call_token"])
@pytest.mark.parametrize(
    "value",
    ["hunter2\n", ["hunter2"], {"hunter2": "hunter2"}, "hunter2" * 1000, f"hunter2{OVERRIDE}"],
)
@pytest.mark.anyio
async def test_a_secret_is_never_shown(harness: Harness, name: str, value: object) -> None:
    async with harness.connect() as agent:
        result = await agent.client.call_tool("create_call", {**placing(), name: value})
    (fault,) = structured(result)["error"]["faults"]
    assert fault["path"] == f"/{name}"
    assert fault["received"] == "********"
    assert "hunter2" not in result.model_dump_json()


@pytest.mark.anyio
async def test_a_secret_under_a_misspelt_name_is_not_shown(harness: Harness) -> None:
    async with harness.connect() as agent:
        result = await agent.client.call_tool("create_call", placing(SipAuthPassword="hunter2"))
    assert structured(result)["error"]["faults"][0]["did_you_mean"] == "sip_auth_password"
    assert "hunter2" not in result.model_dump_json()


# Characters


STRANGE_SIDS = [
    *(SID + end for end in ("\n", "\r\n", " ", "\x00", "?PageSize=1", "#", ";x", "/", ".json")),
    *(SID + end for end in ("0", "\\", "%0A")),
    *(SID[:-1] + end for end in ("", "g", "\ud800", "\N{ZERO WIDTH SPACE}")),
    *(SID[:-1] + digit for digit in ("\N{ARABIC-INDIC DIGIT ONE}", "\N{FULLWIDTH DIGIT ONE}")),
    *(SID[:-3] + "%2F", OVERRIDE + SID[1:], "CA" + OVERRIDE + "0" * 31),
    *("\n" + SID, "\N{GREEK CAPITAL LETTER ALPHA}" + SID[1:], "SM" + SID[2:], SID.lower()),
    *("../Messages/SM" + "0" * 32, "..", "%2e%2e%2f" + SID),
]


@pytest.mark.requirement("30")
@pytest.mark.parametrize(
    ("tool", "name", "prefix"),
    [
        ("fetch_call", "sid", "CA"),
        ("update_call", "sid", "CA"),
        ("delete_call", "account_sid", "AC"),
        ("list_calls", "parent_call_sid", "CA"),
    ],
)
def test_an_invalid_sid_is_refused(tool: str, name: str, prefix: str) -> None:
    expected = ACCOUNT_SID if prefix == "AC" else CALL_SID
    for sid in STRANGE_SIDS:
        fault = fault_of(tool, name, sid.replace("CA", prefix))
        assert CLEAN.sub("", fault.expected) == expected


@pytest.mark.requirement("30")
@pytest.mark.parametrize("tool", ["fetch_call", "update_call", "delete_call"])
@pytest.mark.anyio
async def test_an_invalid_sid_never_gets_into_a_path(tool: str) -> None:
    async with open_harness(calls_mcp_confirm="none") as harness, harness.connect() as agent:
        for sid in STRANGE_SIDS:
            if "\ud800" in sid:  # a client can't send it
                continue
            for arguments in ({"sid": sid}, {"account_sid": sid.replace("CA", "AC")}):
                outcome = await agent.call(tool, **{**BASES[tool], **arguments})
                assert outcome["error"]["kind"] == "invalid_arguments"
        assert harness.emulator.requests == ()


@pytest.mark.requirement("32")
@pytest.mark.parametrize(
    ("tool", "name", "text"),
    [
        ("create_call", "to", "+15005550006\n"),
        ("create_call", "to", "client:bob\x00"),
        ("create_call", "to", f"client:bob{OVERRIDE}"),
        ("create_call", "caller_id", "client:\ud83d"),
        ("create_call", "call_reason", "Dinner\r\nTo: +15005550001"),
        ("create_call", "call_reason", "a\tb"),
        ("create_call", "call_reason", "a\N{LINE SEPARATOR}b"),
        ("create_call", "call_reason", "a\N{TAG LATIN SMALL LETTER A}"),
        ("create_call", "sip_auth_username", "bob\n"),
        ("create_call", "url", "https://example.com/\r\nX: y"),
        ("create_call", "twiml", "<Response/>\x00"),
        ("create_call", "twiml", f"<Response>{OVERRIDE}</Response>"),
        ("create_call", "method", "GET\n"),
        ("create_call", "status_callback_event", ["completed\n"]),
        ("list_calls", "start_time", "2026-01-31\n"),
        ("list_calls", "cursor", "abc\n"),
        ("create_call", "confirmation_token", "abc\x7f"),
    ],
)
def test_an_invisible_character_is_refused_and_named(tool: str, name: str, text: object) -> None:
    fault = fault_of(tool, name, text)
    assert CLEAN.search(fault.expected)
    assert str(fault.received).isprintable()


CONTROLS = ("\r\n", "\n", "\r", "\0", "\ud800", "\udfff", "\x1b", "\x85", "\u2028")
EVERY_TEXT = [(tool, name) for tool, name in PARAMETERS if isinstance(sample(tool, name), str)]


@pytest.mark.requirement("32")
@pytest.mark.parametrize(("tool", "name"), EVERY_TEXT)
def test_control_characters_are_refused_and_not_repeated(tool: str, name: str) -> None:
    text = sample(tool, name)
    for control in CONTROLS[3:] if name == "twiml" else CONTROLS:  # which has lines
        for value in (f"{text}{control}", f"{control}{text}", f"x{control}X-Y: z"):
            told = faults(tool, {**BASES[tool], name: value})
            assert name in told
            assert control not in "".join(repr(fault) for fault in told.values())


@pytest.mark.requirement("31", "33")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("to", "+1500555000\N{ARABIC-INDIC DIGIT SIX}"),
        ("to", "client:b\N{CYRILLIC SMALL LETTER O}b"),
        ("to", "client:b b"),
        ("to", "sip:bob@\N{FULLWIDTH LATIN SMALL LETTER A}.example"),
        ("to", "+05005550006"),
        ("to", "911"),
        ("to", "+15005550205,1"),
        ("to", "+15005550205;ext=1"),
        ("to", "mailto:a@b.example"),
        ("to", "sip:@"),
        ("to", "client:"),
        ("to", "sim:DE" + "0" * 32),
        ("to", "client:" + "b" * 510),
        ("url", "https://ex\N{CYRILLIC SMALL LETTER A}mple.com/"),
        ("url", "https://example.com/a b"),
        ("url", "https://example.com\\@evil.example/"),
        ("url", "https://example.com:0/"),
        ("url", "https://example.com:99999/"),
        ("url", "https://example.com:port/"),
        ("url", "javascript:alert(1)"),
        ("url", "//example.com/"),
        ("url", "https://example.com/" + "a" * 4096),
        ("send_digits", "\N{ARABIC-INDIC DIGIT ONE}"),
        ("send_digits", "1a"),
        ("call_reason", "x" * 4097),
        ("byoc", "BY" + "z" * 32),
    ],
)
def test_a_text_that_resembles_a_valid_value_is_refused(name: str, text: str) -> None:
    assert fault_of("create_call", name, text).path == f"/{name}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("call_reason", "Dîner à 20 h — 世界 👩\N{ZERO WIDTH JOINER}💻"),
        ("twiml", "<Response>\r\n\t<Say>Grüße</Say>\n</Response>"),
        ("twiml", "x" * 4000),
        ("url", "http://localhost:8080/a?b=c#d"),
        ("to", "client:reception"),
        ("send_digits", "0123456789#*wWABCD"),
        ("sip_auth_password", " & = + "),
        ("caller_id", "alice@example.com"),
    ],
)
def test_a_valid_text_is_accepted_unchanged(name: str, text: str) -> None:
    assert checked("create_call", {**BASES["create_call"], name: text}).values[name] == text


# URLs

PUNYCODE = "with the host name in Punycode (xn--)"
ENCODED_URLS = [
    ("https://example.com/a b", 'with %20 instead of " "', "https://example.com/a%20b"),
    (
        *("https://example.com/ü?é=ö#东", 'with %C3%BC instead of "ü"'),
        "https://example.com/%C3%BC?%C3%A9=%C3%B6#%E4%B8%9C",
    ),
    (
        *("https://example.com/%C3%BC 100%", 'with %20 instead of " "'),
        "https://example.com/%C3%BC%20100%25",
    ),
    (
        *("HTTPS://Bücher.example:8443/ä", f'{PUNYCODE} instead of "ü"'),
        "https://xn--bcher-kva.example:8443/%C3%A4",
    ),
    ("https://faß.example", f'{PUNYCODE} instead of "ß"', "https://xn--fa-hia.example"),
    (
        *("https://jürgen:x y@example.com/", 'with %C3%BC instead of "ü"'),
        "https://j%C3%BCrgen:x%20y@example.com/",
    ),
    ("https://exa mple.com/", 'without " "', None),
    ("https://example.com/a\\b", 'without "\\"', None),
    ("https://\u0301.example/", f'{PUNYCODE} instead of "\u0301"', None),
]


@pytest.mark.parametrize(("url", "instead", "meant"), ENCODED_URLS)
@pytest.mark.parametrize("name", ["url", "status_callback"])
def test_a_character_that_a_url_must_not_contain_is_named_and_encoded(
    name: str, url: str, instead: str, meant: str | None
) -> None:
    fault = fault_of("create_call", name, url)
    assert fault.expected == f"{CALLBACK_URL if name == 'status_callback' else URL}, {instead}"
    assert fault.did_you_mean == meant


HOSTS = st.text("abcßäÖ東\u3002", min_size=1, max_size=8) | st.text("ab.-_ä@:[]1 ", max_size=8)
PATHS = st.text("abc.ßäÖé東% @:\\?#/&=\u0301\u202e0189[]", max_size=30)


@given(url=st.builds("{}://{}/{}".format, st.sampled_from(["http", "HTTPS"]), HOSTS, PATHS))
@pytest.mark.parametrize("name", ["url", "status_callback"])
def test_a_suggested_url_is_valid_and_means_the_same(name: str, url: str) -> None:
    try:
        checked("create_call", placing(**{name: url}))
    except InvalidArguments as invalid:
        if meant := cast("str | None", invalid.faults[0].did_you_mean):
            assert checked("create_call", placing(**{name: meant})).values[name] == meant
            assert unquote(urlsplit(meant).path) == unquote(urlsplit(url.strip()).path)


# Numbers and dates


def test_a_number_above_32_bits_is_refused_even_without_a_documented_maximum() -> None:
    assert fault_of("create_call", "time_limit", 2**31).path == "/time_limit"
    checked("create_call", placing(time_limit=2**31 - 1))


def test_a_whole_float_is_accepted_as_an_integer() -> None:
    values = checked("create_call", placing(timeout=60.0)).values
    assert values["timeout"] == 60
    assert isinstance(values["timeout"], int)


NO_BOOLEANS: tuple[object, ...] = (0, 1, 1.0, "1", [1])
NO_NUMBERS = (True, False, math.nan, math.inf, -math.inf, 1e400, 60.5, -1)
NO_DATES = (
    *("2026-02-29", "2026-13-01", "0000-01-01", "2026-1-1", "20260131", "2026-W05-6", "yesterday"),
    *("2026-01-31T25:00:00Z", "2026-01-31T09:00:00", "2026-01-31 09:00:00Z", "2026-01-31Z"),
    *("0001-01-01T00:00:00+00:01", "9999-12-31T23:59:00-00:01", "9999-12-31T24:00:00Z"),
    *("2026-01-31+02:00", "2026-01-31T23:59:60Z"),
    *("2026-01-31T09:00:00+25:00", "2026-01-31' OR 1=1", "\N{ARABIC-INDIC DIGIT TWO}026-01-31"),
)


@pytest.mark.requirement("35")
@pytest.mark.parametrize(
    ("tool", "name", "expected", "values"),
    [
        ("create_call", "timeout", SECONDS, NO_NUMBERS),
        ("create_call", "time_limit", "a whole number of seconds, 1 or more", NO_NUMBERS),
        ("create_call", "record", BOOLEAN, NO_BOOLEANS),
        ("list_calls", "start_time", DATE, NO_DATES),
    ],
)
def test_an_invalid_number_boolean_or_date_is_refused(
    tool: str, name: str, expected: str, values: tuple[object, ...]
) -> None:
    assert {fault_of(tool, name, value).expected for value in values} == {expected}


@pytest.mark.parametrize("text", ["2026-01-31T0900Z", "2026-01-31T09Z", "2026-01-31T09:00:00+0100"])
@pytest.mark.anyio
async def test_an_unusual_date_time_format_is_refused_or_accepted_by_the_api(
    harness: Harness, text: str
) -> None:
    async with harness.connect() as agent:
        outcome = await agent.call("list_calls", start_time=text)
    assert outcome["outcome"] == "done" or outcome["error"]["kind"] == "invalid_arguments"


@pytest.mark.parametrize(
    ("name", "text", "sent"),
    [
        ("start_time", "2024-02-29", "2024-02-29"),
        ("start_time", "2026-01-01T00:00:00+02:00", "2025-12-31"),
        ("end_time", "2024-02-29T23:30:00-01:00", "2024-03-01"),
        ("start_time_after", "2026-01-01", "2026-01-01"),
        ("start_time_after", "2026-01-01T00:00:00+02:00", "2025-12-31T22:00:00Z"),
        ("start_time_before", "2024-02-29T23:30:00-01:00", "2024-03-01T00:30:00Z"),
        ("start_time_before", "2026-01-31T09:00Z", "2026-01-31T09:00:00Z"),
        ("end_time_after", "2026-01-31T09:00:00.25+01:00", "2026-01-31T08:00:00.250000Z"),
        ("end_time_after", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("end_time_before", "9999-12-31T23:59:59+00:00", "9999-12-31T23:59:59Z"),
    ],
)
def test_a_date_or_time_is_sent_in_utc(name: str, text: str, sent: str) -> None:
    assert checked("list_calls", {name: text}).values == {name: sent}


OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(timezones=OFFSETS))
def test_a_time_with_any_offset_is_the_same_moment_in_utc_or_a_fault(moment: datetime) -> None:
    try:
        told = checked("list_calls", {"end_time_before": moment.isoformat()}).values[
            "end_time_before"
        ]
    except InvalidArguments:
        with pytest.raises(OverflowError):
            moment.astimezone(UTC)
    else:
        assert datetime.fromisoformat(str(told)) == moment
        assert str(told).endswith("Z")


@pytest.mark.parametrize(
    ("name", "text", "other"),
    [
        ("start_time", "<=2026-01-31", "start_time_before"),
        ("start_time", " > 2026-01-31", "start_time_after"),
        ("end_time", ">=2026-01-31T09:00:00Z", "end_time_after"),
    ],
)
def test_an_inequality_in_a_date_names_the_filter_for_it(name: str, text: str, other: str) -> None:
    fault = fault_of("list_calls", name, text)
    assert fault.expected == f"a date without < or >, in {other}"
    assert fault.did_you_mean is None


DAY, NOON, NEXT_DAY = "2024-01-31", "2024-01-31T12:00:00Z", "2024-02-01"
EMPTY_RANGES: list[tuple[str, str, str, str]] = [
    ("start_time_after", NEXT_DAY, "start_time_before", NOON),
    ("start_time_after", "2024-01-31T12:00:01Z", "start_time_before", "2024-01-31T14:00:00+02:00"),
    ("end_time_after", NEXT_DAY, "end_time_before", DAY),
    ("start_time_after", NEXT_DAY, "start_time", DAY),
    ("start_time", NEXT_DAY, "start_time_before", NOON),
    ("start_time_after", NOON, "end_time_before", DAY),
    ("start_time", NEXT_DAY, "end_time", DAY),
    ("start_time", "9999-12-31", "end_time_before", "0001-01-01"),
]


@pytest.mark.parametrize(("lower", "first", "upper", "last"), EMPTY_RANGES)
def test_a_range_of_dates_without_any_moment_gets_a_warning(
    lower: str, first: str, upper: str, last: str
) -> None:
    told = checked("list_calls", {lower: first, upper: last}).warnings
    assert told[0] == f"no call can match, because {lower} is later than {upper}"
    assert told[1:] in ((), (f"no call can match, because {lower} is in the future",))


@pytest.mark.parametrize("name", ["start_time", "start_time_after", "end_time", "end_time_after"])
def test_a_range_in_the_future_gets_a_warning(name: str) -> None:
    warning = f"no call can match, because {name} is in the future"
    assert checked("list_calls", {name: "9999-12-31"}).warnings == (warning,)


@pytest.mark.parametrize("after", [DAY, "2024-01-31T00:00:00Z", "2024-01-31T02:00:00+02:00"])
@pytest.mark.parametrize("field", ["start_time", "end_time"])
def test_a_range_of_a_single_moment_gets_a_warning(field: str, after: str) -> None:
    filters = {f"{field}_after": after, f"{field}_before": DAY}
    (warning,) = checked("list_calls", filters).warnings
    assert warning == (
        f"{field}_after and {field}_before are the same, so only calls of that second match; "
        f"for a whole UTC day, send only {field}={DAY}"
    )


def test_a_time_of_day_where_only_the_date_counts_gets_a_warning() -> None:
    assert checked("list_calls", {"end_time": "2024-01-31T23:00:00-02:00"}).warnings == (
        f"end_time selects the whole UTC day {NEXT_DAY}; its time of day is ignored",
    )


@pytest.mark.parametrize(
    "filters",
    [
        {"start_time": "2024-01-31T00:00:00Z"},
        {"start_time_after": DAY, "start_time_before": NEXT_DAY},
        {"start_time": DAY, "start_time_after": NOON, "start_time_before": NEXT_DAY},
        {"start_time": DAY, "end_time": DAY},
        {"start_time": DAY, "end_time": NEXT_DAY},
        {"start_time_after": NOON, "end_time_before": NOON},
        {"start_time_before": "9999-12-31", "end_time_before": "9999-12-31"},
        {"start_time": "0001-01-01", "end_time_after": "0001-01-01T00:00:00Z"},
    ],
)
def test_dates_that_can_match_get_no_warning(filters: Mapping[str, object]) -> None:
    assert checked("list_calls", filters).warnings == ()


# Rules


@pytest.mark.parametrize("tool", ["create_call", "update_call"])
def test_a_missing_choice_of_arguments_names_all_of_them(tool: str) -> None:
    (rule,) = (r for r in load_operations()[tool].rules if r.rule == "needs_one_of")
    bare = {k: v for k, v in BASES[tool].items() if k not in rule.parameters}
    first = rule.parameters[0]
    fault = faults(tool, bare)[first]
    assert fault.expected == rule.expected
    assert {*re.findall(r"\w+", rule.expected)} >= {*rule.parameters}
    assert fault.received == "none of them"
    for name in {*rule.parameters} - {"say"}:
        checked(tool, {**bare, name: sample(tool, name)})


def test_arguments_that_exclude_each_other_are_refused() -> None:
    told = faults("update_call", {"sid": SID, "url": "https://example.com/", "twiml": TWIML})
    assert [*told.values()] == [
        Fault(path="/twiml", expected="either url or twiml, not both", received="url and twiml")
    ]


@pytest.mark.parametrize(
    ("sender", "meant"),
    [
        ("sip:bob@example.com", None),
        ("client:bob", None),
        ("front-desk", None),
        ("15005550006", "+15005550006"),
        ("sip:+15005550006@example.com", "+15005550006"),
    ],
)
def test_a_call_to_a_phone_number_needs_a_phone_number_as_caller_id(
    sender: str, meant: str | None
) -> None:
    fault = fault_of("create_call", "from", sender)
    assert fault.expected == "a phone number, because to is a phone number"
    assert fault.received == f'"{sender}"'
    assert fault.example == "+15005550006"
    assert fault.did_you_mean == meant


@pytest.mark.parametrize(
    ("to", "sender", "kind"),
    [
        ("15005550006", "client:bob", "phone number"),
        (15005550006, "front-desk", "phone number"),
        ("(500) 555-0006", "front-desk", "phone number"),
        ("+1 500 555 0006 ext. 7", "15005550006", "phone number"),
        ("sip:bob smith@example.com", "client:bob@example.com", "SIP address"),
    ],
)
def test_a_wrong_callee_hides_no_wrong_caller_id(to: object, sender: str, kind: str) -> None:
    told = faults("create_call", placing(**{"to": to, "from": sender}))
    assert [*told] == ["to", "from"]
    assert told["from"].expected.endswith(f", because to is a {kind}")


def test_an_invisible_character_hides_no_other_fault_of_its_argument() -> None:
    told = faults("create_call", placing(**{"from": f"client:bob{OVERRIDE}"}))
    assert told["from"].expected == (
        "a phone number, because to is a phone number, without invisible characters (found U+202E)"
    )
    long = faults("update_call", {"sid": SID, "say": f"{OVERRIDE}{'x' * 3968}"})
    assert long["say"].expected.endswith("(found U+202E); make it 1 character shorter")


SIP_CALLEES = ("sip:alice@example.com", "sips:alice@example.com")


@pytest.mark.parametrize("to", SIP_CALLEES)
@pytest.mark.parametrize("sender", ["Jack", "front-desk", "1001", "client:bob", CALLER])
def test_a_sip_address_can_be_called_by_a_user_name_or_a_number(to: str, sender: str) -> None:
    arguments = checked("create_call", placing(**{"to": to, "from": sender}))
    assert arguments.values["from"] == sender


@pytest.mark.parametrize("to", SIP_CALLEES)
@pytest.mark.parametrize(
    ("sender", "meant"),
    [
        ("sip:jack@example.com", "jack"),
        ("SIPS:Jack@example.com", "Jack"),
        ("front-desk@example.com", "front-desk"),
        ("sip:jack:password@example.com", "jack"),
        ("sip:jack;phone-context=x@example.com", "jack"),
        ("sip:+15005550006@example.com", "+15005550006"),
        ("client:bob@example.com", None),
        ("sip:@example.com", None),
    ],
)
def test_a_sip_address_cant_be_called_by_an_address_and_the_user_name_is_suggested(
    to: str, sender: str, meant: str | None
) -> None:
    told = faults("create_call", placing(**{"to": to, "from": sender}))
    assert told["from"].expected == (
        "a phone number or a user name without @, because to is a SIP address"
    )
    assert told["from"].did_you_mean == meant


ADDRESSES_IN_RESULTS = (
    *("anonymous", "Anonymous", "Jack", "Jack Smith", "40404", "+266696687", "+0000", "911"),
    *("whatsapp:+15005550006", "alice@example.com", "sip:bob@example.com", "client:b b"),
    *("sim:DE" + "0" * 32, "東京", "restricted", "sip:" + "x" * 508),
)


@pytest.mark.parametrize("name", ["to", "from"])
@pytest.mark.parametrize("address", ADDRESSES_IN_RESULTS)
def test_calls_can_be_listed_by_every_address_that_a_result_can_show(
    name: str, address: str
) -> None:
    assert checked("list_calls", {name: address}).values == {name: address}


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("+1 (500) 555-0006", "+15005550006"),
        ("1-500-555-0006", "+15005550006"),
        (" Jack", "Jack"),
        ("sip:bob:password@example.com", "sip:bob@example.com"),
        ("x" * 513, None),
    ],
)
def test_what_no_result_shows_is_not_listed_by(address: str, meant: str | None) -> None:
    assert fault_of("list_calls", "from", address).did_you_mean == meant


@given(text=st.text(st.characters(), max_size=600) | st.text("+0123456789-( sip:@", max_size=40))
def test_calls_can_be_listed_by_the_parties_of_any_call(text: str) -> None:
    call = summarize({"sid": SID, "from": text, "to": text})
    assume(call.from_ is not None and not NO_ADDRESS.fullmatch(call.from_))
    shown = {"from": call.from_, "to": call.to}
    assert checked("list_calls", shown).values == shown


NO_ADDRESS = re.compile(r"sips?:[^@]*:[^@]*@.*|\+?[0-9().-]*[ ().-][0-9 ().-]*")
"""A SIP address with a password and a formatted number, which the API shows in no call."""


@pytest.mark.parametrize("name", ["to", "from"])
@pytest.mark.parametrize(
    ("number", "send"),
    [
        ("15005550006", "+15005550006"),
        ("442079460018", "+442079460018"),
        ("4155551212", "+ and the country code first"),
        ("00442079460018", "+ and the country code first"),
        ("5551212", "+ and the country code first"),
    ],
)
def test_a_filter_by_a_number_without_a_plus_sign_gets_a_warning(
    name: str, number: str, send: str
) -> None:
    assert checked("list_calls", {name: number}).warnings == (
        f"{name} matches no phone number, because it has no +; for a phone number, send {send}",
    )


@pytest.mark.parametrize("address", ADDRESSES_IN_RESULTS)
def test_a_filter_by_another_address_gets_no_warning(address: str) -> None:
    assert checked("list_calls", {"to": address}).warnings == ()


@pytest.mark.anyio
async def test_a_list_result_has_the_warnings_about_its_filters(harness: Harness) -> None:
    async with harness.connect() as agent:
        outcome = await agent.call("list_calls", to="15005550006")
    assert outcome["count"] == 0
    assert outcome["warnings"][0].startswith("to matches no phone number")


@pytest.mark.anyio
@pytest.mark.parametrize("address", ADDRESSES_IN_RESULTS)
async def test_the_emulator_accepts_every_address_as_a_filter(
    harness: Harness, address: str
) -> None:
    async with harness.connect() as agent:
        assert (await agent.call("list_calls", to=address))["outcome"] == "done"


@pytest.mark.parametrize("sender", ["Jack", "client:bob", "client:bob@example.com", CALLER])
def test_a_client_can_be_called_by_any_caller_id(sender: str) -> None:
    checked("create_call", placing(**{"to": "client:alice", "from": sender}))


@pytest.mark.anyio
@pytest.mark.parametrize("sender", ["Jack", CALLER])
async def test_the_api_accepts_the_suggested_caller_of_a_sip_call(sender: str) -> None:
    wrong = placing(**{"to": "sip:alice@example.com", "from": f"sip:{sender}@example.com"})
    async with open_harness(calls_mcp_confirm="none") as harness, harness.connect() as agent:
        (fault,) = (await agent.call("create_call", **wrong))["error"]["faults"]
        outcome = await agent.call("create_call", **{**wrong, "from": fault["did_you_mean"]})
    assert outcome["outcome"] == "done"
    assert outcome["call"]["from"] == sender


CONTEXT: Mapping[str, Mapping[str, object]] = {
    "async_amd": {"machine_detection": "Enable"},
    "async_amd_status_callback": {"machine_detection": "Enable", "async_amd": True},
    "async_amd_status_callback_method": {
        "machine_detection": "Enable",
        "async_amd": True,
        "async_amd_status_callback": "https://example.com/",
    },
    "recording_status_callback": {"record": True},
    "recording_status_callback_event": {"recording_status_callback": "https://example.com/"},
    "recording_status_callback_method": {"recording_status_callback": "https://example.com/"},
}
"""What an argument needs before other arguments can depend on it."""

SOFT_RULES = [
    (tool, rule, name)
    for tool in TOOLS
    for rule in load_operations()[tool].rules
    for name in rule.parameters
    if rule.rule in ("ignored_when", "no_effect_without", "only_for_kind")
]


def soft(rule_name: str) -> pytest.MarkDecorator:
    rows = [row for row in SOFT_RULES if row[1].rule == rule_name]
    assert rows
    ids = [f"{tool}-{rule.given}-{name}" for tool, rule, name in rows]
    return pytest.mark.parametrize(("tool", "rule", "name"), rows, ids=ids)


@soft("ignored_when")
def test_an_argument_that_the_api_ignores_gets_a_warning(tool: str, rule: Rule, name: str) -> None:
    values = {key: sample(tool, key) for key in (name, rule.given)}
    arguments = checked(tool, {**BASES[tool], **values})
    reason = f"{name} is ignored because {rule.given} is given"
    assert reason in arguments.warnings
    assert arguments.values[name] == values[name]
    assert all(warning.startswith((name, "twiml")) for warning in arguments.warnings)


@soft("no_effect_without")
def test_an_argument_without_the_one_it_needs_gets_a_warning(
    tool: str, rule: Rule, name: str
) -> None:
    context = CONTEXT.get(rule.given, {})
    alone = {**BASES[tool], **context, name: sample(tool, name)}
    reason = f"{name} has no effect without {rule.given}"
    assert checked(tool, alone).warnings == (reason,)
    if sample(tool, rule.given) is True:
        assert checked(tool, {**alone, rule.given: False}).warnings == (reason,)


@soft("no_effect_without")
def test_an_effective_argument_gets_no_warning(tool: str, rule: Rule, name: str) -> None:
    needed = {rule.given: sample(tool, rule.given), name: sample(tool, name)}
    context = {**CONTEXT.get(rule.given, {}), **CONTEXT.get(name, {})}
    base = {k: v for k, v in BASES[tool].items() if k not in ("twiml", "status")}
    arguments = {**base, "url": "https://example.com/", **context, **needed}
    assert checked(tool, arguments).warnings == ()


@soft("only_for_kind")
def test_an_argument_for_another_kind_of_party_gets_a_warning(
    tool: str, rule: Rule, name: str
) -> None:
    parties = {"phone number": "+15005550205", "SIP address": "sip:alice@example.com"}
    values = {**BASES[tool], name: sample(tool, name)}
    for kind, party in {**parties, "client": "client:alice"}.items():
        told = checked(tool, {**values, "to": party}).warnings
        reason = f"{name} has no effect because to is not a {rule.kind}"
        assert told == (() if kind == rule.kind else (reason,))


def test_an_argument_that_depends_on_an_ignored_one_gets_a_warning() -> None:
    arguments = placing(send_digits="1", machine_detection="Enable", async_amd=True)
    assert checked("create_call", arguments).warnings == (
        "machine_detection is ignored because send_digits is given",
        "async_amd has no effect without machine_detection",
    )


@pytest.mark.anyio
async def test_a_call_with_warnings_is_placed_and_returns_them() -> None:
    url = "https://example.com/voice"
    async with open_harness(calls_mcp_confirm="none") as harness, harness.connect() as agent:
        result = await agent.client.call_tool(
            "create_call",
            placing(url=url, trim="do-not-trim", byoc="BY" + "0" * 32, to="client:al"),
        )
        placed = structured(result)
        updated = await agent.call(
            "update_call", sid=placed["call"]["sid"], method="GET", twiml=TWIML
        )
        statuses = [entry.status for entry in harness.changes]
    assert placed["outcome"] == updated["outcome"] == "done"
    assert placed["warnings"] == [
        "twiml is ignored because url is given",
        "byoc has no effect because to is not a phone number",
        "trim has no effect without record",
    ]
    assert updated["warnings"] == ["method has no effect without url"]
    assert text_of(result).splitlines()[1] == "Note: twiml is ignored because url is given."
    assert statuses == [201, 200]


# Size


def buried(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


OF_CREATE = (
    "to caller_id url status_callback twiml call_reason sip_auth_password send_digits timeout"
)
EVERY_TYPE = [
    *(("create_call", name) for name in OF_CREATE.split()),
    *(("create_call", name) for name in ("record", "method", "status_callback_event")),
    *(("fetch_call", "sid"), ("list_calls", "from")),
    *(("list_calls", "start_time"), ("list_calls", "cursor")),
]


def short(tool: str, name: str, value: object) -> bool:
    return len(repr(fault_of(tool, name, value))) < 1500


@pytest.mark.requirement("35")
@pytest.mark.parametrize(("tool", "name"), EVERY_TYPE)
def test_a_huge_value_makes_a_short_fault(tool: str, name: str) -> None:
    size = 10**5
    for text in ("x" * size, "\x00" * size, "sip:" + "@" * size, "+1" + " " * size):
        assert short(tool, name, text)
    for items in (["completed"] * 10**4, [{"a": 1}] * 10**4, [["x" * size]]):
        assert short(tool, name, items)
    assert short(tool, name, dict.fromkeys(map(str, range(10**4))))
    assert short(tool, name, 10**300)


@pytest.mark.parametrize(("tool", "name"), EVERY_TYPE)
def test_a_value_that_cannot_be_printed_makes_a_short_fault(tool: str, name: str) -> None:
    deep = buried(50_000)
    assert all(short(tool, name, value) for value in (deep, [deep] * 2, {"a": deep}, -(10**5000)))


def test_a_huge_argument_name_makes_a_short_fault() -> None:
    (fault,) = faults("list_calls", {"to" * 10**6: 1}).values()
    assert len(repr(fault)) < 500


def test_only_some_of_many_unknown_names_are_reported() -> None:
    reported = faults("list_calls", {f"strange{n}": n for n in range(10**5)})
    assert 10 <= len(reported) <= 100


@pytest.mark.requirement("35")
@pytest.mark.anyio
async def test_huge_and_deep_values_return_short_results(
    harness: Harness,
) -> None:
    async with harness.connect() as agent:
        for value in ("y" * 10**6, buried(100), {"a": buried(100)}, 10**300):
            result = await agent.client.call_tool("create_call", placing(to=value, zebra=value))
            assert structured(result)["error"]["kind"] == "invalid_arguments"
            assert len(result.model_dump_json()) < 3000
    assert harness.emulator.requests == ()


# Properties


@dataclass(frozen=True)
class Bench:
    """A running server without confirmations, for use in a synchronous function."""

    portal: BlockingPortal
    harness: Harness
    agent: Agent

    def call(
        self, tool: str, arguments: Mapping[str, object]
    ) -> tuple[CallToolResult, list[LoggedRequest]]:
        """The result of a call, and the requests it made."""
        before = len(self.harness.emulator.requests)
        result = self.portal.call(self._call, tool, {**arguments})
        return result, [*self.harness.emulator.requests[before:]]

    async def _call(self, tool: str, arguments: dict[str, object]) -> CallToolResult:
        return await self.agent.client.call_tool(tool, arguments)


@pytest.fixture
def running() -> Generator[Bench]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_harness(calls_mcp_confirm="none")) as harness,
        portal.wrap_async_context_manager(harness.connect()) as agent,
    ):
        yield Bench(portal, harness, agent)


def as_documented(tool: str, arguments: Mapping[str, object], sent: Sending) -> bool:
    """Whether exactly this should be sent; the server may choose a smaller page size."""
    if tool == "list_calls":
        (size,) = sent.query.pop("PageSize")
        bounds = (1000, arguments.get("page_size", 1000), arguments.get("limit", 50))
        assert 1 <= int(size) <= min(int(cast("float", bound)) for bound in bounds)
    rest = {name: value for name, value in arguments.items() if name != "page_size"}
    return sent == expected_sending(tool, rest)


@pytest.mark.parametrize("empty", [None, "", []])
@pytest.mark.anyio
async def test_an_empty_optional_argument_is_the_same_as_none(
    harness: Harness, empty: object
) -> None:
    given = placing()
    names = load_operations()["create_call"].parameters.keys() - given.keys()
    rest = dict.fromkeys(names - {"confirmation_token"}, empty)
    async with harness.connect() as agent:
        plain = await agent.call("create_call", **placing())
        filled = await agent.call("create_call", **placing(), **rest, confirmation_token=empty)
        assert filled["confirmation"]["preview"] == plain["confirmation"]["preview"]
        token = plain["confirmation"]["token"]
        done = await agent.call("create_call", **placing(), **rest, confirmation_token=token)
    assert done["outcome"] == "done"


@pytest.mark.parametrize("empty", [None, "", []])
@pytest.mark.parametrize("tool", ["create_call", "update_call"])
def test_an_empty_argument_does_not_satisfy_a_rule_that_needs_one(tool: str, empty: object) -> None:
    (rule,) = (r for r in load_operations()[tool].rules if r.rule == "needs_one_of")
    bare = {k: v for k, v in BASES[tool].items() if k not in rule.parameters}
    told = faults(tool, {**bare, **dict.fromkeys(rule.parameters, empty)})
    assert [*told] == [rule.parameters[0]]


def test_an_empty_argument_excludes_no_other() -> None:
    checked("update_call", {"sid": SID, "url": "", "twiml": TWIML})
    told = faults("create_call", placing(Url="", status_callback_event=[]))
    assert [*told] == ["Url"]


each_tool = pytest.mark.parametrize("tool", TOOLS)
in_time = pytest.mark.timeout(60 + EXAMPLES // 5)


@in_time
@each_tool
@THOROUGH
@given(data=st.data())
def test_all_documented_arguments_reach_the_api_as_documented(
    running: Bench, tool: str, data: st.DataObject
) -> None:
    arguments = data.draw(right_arguments(tool))
    _, requests = running.call(tool, arguments)
    (entry,) = requests
    assert as_documented(tool, arguments, sending(entry))


@in_time
@each_tool
@THOROUGH
@given(data=st.data())
def test_arguments_that_satisfy_the_schema_are_sent_or_have_an_unpublished_fault(
    running: Bench, tool: str, data: st.DataObject
) -> None:
    schema = definitions()[tool]["inputSchema"]
    arguments = data.draw(published_arguments(schema) | right_arguments(tool))
    assert satisfies(schema, arguments)
    result, requests = running.call(tool, arguments)
    error = structured(result).get("error", {"kind": ""})
    if error["kind"] in ("invalid_arguments", "invalid_confirmation", "policy_denied"):
        assert requests == []
    if error["kind"] == "invalid_arguments":
        names = [fault["path"].removeprefix("/") for fault in error["faults"]]
        assert all(unpublished_fault(tool, arguments, name) for name in names)
    elif error["kind"] == "invalid_confirmation":
        assert "confirmation_token" in arguments
    elif error["kind"] == "policy_denied":  # whatever the policy, some things are refused
        assert re.search(r"twiml\.well_formed|urls\.always|emergency", error["message"])
    else:
        (entry,) = requests
        assert as_documented(tool, arguments, sending(entry))


@pytest.mark.requirement("07", "35")
@in_time
@each_tool
@THOROUGH
@given(data=st.data())
def test_arguments_that_break_the_schema_never_reach_the_api(
    running: Bench, tool: str, data: st.DataObject
) -> None:
    name, arguments = data.draw(broken_arguments(definitions()[tool]))
    result, requests = running.call(tool, arguments)
    assert requests == []
    error = structured(result)["error"]
    assert error["kind"] == "invalid_arguments"
    if name in definitions()[tool]["inputSchema"]["properties"]:
        assert f"/{name}" in [fault["path"] for fault in error["faults"]]
    else:
        assert "a known argument" in str(error["faults"])


@in_time
@each_tool
@THOROUGH
@given(data=st.data())
def test_any_json_arguments_return_a_short_result_that_fits_the_output_schema(
    running: Bench, tool: str, data: st.DataObject
) -> None:
    taken = definitions()[tool]["inputSchema"]
    given_back = definitions()[tool]["outputSchema"]
    arguments = data.draw(any_arguments(taken))
    result, requests = running.call(tool, arguments)
    content = structured(result)
    assert satisfies(given_back, content)
    assert content.keys() <= cast("dict[str, Json]", given_back["properties"]).keys()
    assert result.is_error is ("error" in content)
    assert len(result.model_dump_json()) < 16_000
    assert len(requests) <= is_accepted(taken, arguments)
