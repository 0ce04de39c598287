"""Validation of arguments, and the faults that a model gets."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Literal, cast
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.errors import Fault, InvalidArguments
from calls_mcp.observability.redaction import MASK
from calls_mcp.tools.catalog import load_operations
from tests.generate import definitions
from tests.harness import (
    CALLER,
    ERAS,
    TALKS_FOR_AN_HOUR,
    TWIML,
    Harness,
    open_harness,
    placing,
    structured,
    text_of,
)
from tests.strategies import BASES, PARAMETERS, SID, TOOLS, sample
from tests.tools.faults import checked, fault_of, faults

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
EVENTS = "a non-empty list of unique values from initiated, ringing, answered, completed"
UNDERSCORED = "https://a_b.example/"
CLEAN = re.compile(r", without invisible characters \(found U\+[0-9A-F]{4,6}\)$")
OVERRIDE = "\N{RIGHT-TO-LEFT OVERRIDE}"


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
def test_a_misspelled_argument_name_gets_a_suggestion(tool: str, name: str, meant: str) -> None:
    told = faults(tool, {**BASES[tool], name: "?"})
    assert told[name] == Fault(
        path=f"/{name}",
        expected="a known argument",
        received=f'"{name}"',
        did_you_mean=meant,
    )


def test_a_value_under_a_misspelled_name_is_also_checked() -> None:
    told = faults("create_call", {"To": "0123", "From": "client:bob", "twiml": TWIML})
    assert [*told] == ["To", "From", "to", "from"]
    told = faults("create_call", placing(SIPAuthPassword=["secret"]))
    assert told["sip_auth_password"].received == MASK


def test_rules_apply_to_values_under_misspelled_names() -> None:
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
async def test_a_secret_under_a_misspelled_name_is_not_shown(harness: Harness) -> None:
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
    assert fault.expected == f"{other} instead, with the plain date"
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
        f"{field}_after and {field}_before are the same, so they select a single second; "
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
