import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calls_mcp.audit.log import open_audit
from calls_mcp.audit.masking import Numbers, masked_arguments
from calls_mcp.audit.records import START, Ending, Entry, chain, decision_fields, result_fields
from calls_mcp.tools.catalog import Json
from tests.audit.logs import CREATE, ENTRY, entry
from tests.audit_records import lines_in

CANARY = "canary-5e4f1c"
LONGEST_LINE = 32_768  # bytes
NASTY = "a\nb\r\tc\x1b[31m\u202ed\u2028e\u2029f\x00g\ud800h\U000e0041i\u200bj"


def kept(name: str, value: Json, numbers: Numbers = "whole") -> Json:
    return masked_arguments(CREATE, {name: value}, numbers)[name]


@pytest.mark.requirement("41")
@pytest.mark.parametrize("numbers", ["whole", "masked"])
@pytest.mark.anyio
async def test_secrets_are_not_recorded(tmp_path: Path, numbers: Numbers) -> None:
    given = entry(
        to=f"sip:alice:{CANARY}@sip.example.com?X-Key={CANARY}",
        sip_auth_password=CANARY,
        call_token=CANARY,
        sip_auth_pasword=CANARY,
        confirmation_token=CANARY,
        twiml=f"<Response><Say>{CANARY}</Say></Response>",
        url=f"https://alice:{CANARY}@example.com/voice?token={CANARY}#{CANARY}",
        fallback_url=f"https://{CANARY}\\@example.com/",
        call_reason=f"see https://alice:{CANARY}@example.com?{CANARY}, or ftp://{CANARY}@host",
    )
    database = tmp_path / "audit.db"
    async with open_audit(database, numbers) as log:
        await log.record(given)
        await log.end(await log.begin(given), Ending("done"))
    assert CANARY.encode() not in database.read_bytes()
    assert CANARY not in repr(given)
    assert len(lines_in(database)) == 3


def test_the_digest_of_a_secret_can_be_compared_but_not_guessed() -> None:
    digest = kept("sip_auth_password", "1234")
    assert digest == kept("sip_auth_password", "1234") != kept("sip_auth_password", "1235")
    assert digest != "sha256:03ac674216f3e15c"  # the plain one


def test_twiml_has_an_unkeyed_digest() -> None:
    assert kept("twiml", "<Response/>") == "sha256:b40c651583a41c9d"


@pytest.mark.requirement("41")
@pytest.mark.parametrize(
    ("number", "masked"),
    [
        ("+16175551212", "+1•••12"),
        ("+4915112345678", "+49•••78"),
        ("+353861234567", "+353•••67"),
        ("+79161234567", "+7•••67"),
        ("+12345", "+1•••"),
        ("+1", "+1•••"),
        ("sip:+16175551212@example.com", "sip:+1•••12@example.com"),
        ("sip:16175551212:pw@example.com", "sip:•••12:********@example.com"),
        ("client:agent16175551212", "client:agent•••12"),
        ("16175551212@example.com", "•••12@example.com"),
    ],
)
def test_numbers_are_masked_except_country_code_and_two_digits(number: str, masked: str) -> None:
    assert kept("to", number, "masked") == masked


@pytest.mark.parametrize(
    ("address", "recorded"),
    [
        ("sip:desk@pbx.example.com;x@evil.example", "sip:desk@pbx.example.com;x@evil.example"),
        ("sip:desk@pbx?X-A=a@evil.example", "sip:desk@pbx?********"),
        ("sip:desk@pbx;a@b?X-A=a@evil.example", "sip:desk@pbx;a@b?********"),
        ("sip:desk@pbx:99999999;a", "sip:desk@pbx:99999999;a"),
        ("sip:anna:p@ss@pbx;transport=tls", "sip:anna:********@pbx;transport=tls"),
        ("sip:anna:p@x;y@pbx", "sip:anna:********@x;********"),
        ("sip:desk@pbx;rn=+16175551212", "sip:desk@pbx;rn=+1•••12"),
        ("sip:desk@pbx;a,sip:+19005551234@gw", "sip:desk@pbx;a,sip:+1•••34@gw"),
    ],
)
def test_a_sip_address_is_recorded_with_the_host_that_the_policy_checks(
    address: str, recorded: str
) -> None:
    assert kept("to", address, "masked") == recorded


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("call back +1 (617) 555-1212 today", "call back +1•••12 today"),
        ("or 617-555-1212", "or •••12"),
        ("in 3 days, at 9.30", "in 3 days, at 9.30"),
        ("https://10.20.30.40:8080/to/%2B16175551212", "https://10.20.30.40:8080/to/+1•••12"),
        ("AP" + "1" * 32, "AP" + "1" * 32),
        ("https://example.com/2010-04-01/Calls.json", "https://example.com/2010-04-01/Calls.json"),
        ("moved from 2026-01-31 to 2026-12-01", "moved from 2026-01-31 to 2026-12-01"),
        ("20100401", "•••01"),
        ("2010-44-01, 5010-04-01 or 2010-04-015", "•••01, •••01 or •••15"),
    ],
)
def test_numbers_are_masked_in_other_texts_too(text: str, masked: str) -> None:
    assert kept("call_reason", text, "masked") == masked


def test_numbers_are_whole_if_configured() -> None:
    text = "call +1 (617) 555-1212"
    assert kept("to", "+16175551212") == "+16175551212"
    assert kept("caller_id", "16175551212@example.com") == "16175551212@example.com"
    assert kept("call_reason", text) == text


def test_a_number_is_also_masked_in_the_rule_and_the_principal() -> None:
    refused = replace(ENTRY, principal="+16175551212", rule="deny +19005551212")
    fields = decision_fields(refused, "masked")
    assert (fields["principal"], fields["rule"]) == ("+1•••12", "deny +1•••12")


def test_credentials_and_query_of_a_url_are_masked() -> None:
    given = "https://alice:pw@example.com:8443/voice/1?token=x&y#z"
    assert kept("url", given) == "https://********@example.com:8443/voice/1?********"
    assert kept("url", "https://example.com/#z") == "https://example.com/#********"
    assert kept("url", "https://example.com/@alice/voice") == "https://example.com/@alice/voice"


def test_values_of_every_type_are_bounded() -> None:
    assert kept("timeout", 60) == 60
    for number in (10**400, -(10**15), float("nan"), float("inf")):
        assert kept("timeout", number) == "a number out of range"
    assert kept("record", value=True) is True
    assert kept("record", None) is None
    assert kept("status_callback_event", ["initiated", [], {}]) == [
        "initiated",
        "a list",
        "an object",
    ]
    assert kept("status_callback_event", [*("x" * 1000)]) == ["x"] * 16
    assert kept("call_reason", "x" * 1000) == "x" * 255 + "…"
    many: dict[str, Json] = {f"x{number}": 1 for number in range(1000)}
    assert len(masked_arguments(CREATE, many, "whole")) == 64
    strange: list[Json] = [{"a": [1]}, 10**5000]
    assert [str(kept("no_such_argument", value))[:7] for value in strange] == ["sha256:"] * 2


def test_text_is_masked_before_it_is_cut() -> None:
    assert kept("url", f"https://{CANARY * 100}@example.com/") == "https://********@example.com/"


def test_special_characters_become_one_line_of_plain_text() -> None:
    assert kept("call_reason", NASTY) == "a b c[31md e fghij"


TEXTS = st.text(st.characters(exclude_categories=()) | st.sampled_from(NASTY), max_size=300)


@pytest.mark.requirement("41")
@given(text=TEXTS, name=TEXTS)
@settings(deadline=None)
def test_a_record_of_any_text_is_one_bounded_line_of_ascii(text: str, name: str) -> None:
    given = Entry(
        principal=text,
        operation=CREATE,
        action="place",
        arguments={name: text, "call_reason": text, "to": text, "twiml": text, "url": text},
        decision="denied",
        account_sid=text,
        sid=text,
        rule=text,
        outcome=text,
        error_kind=text,
        trace_id=text,
    )
    for fields in (
        decision_fields(given, "masked"),
        result_fields(given, Ending(text), 1, "whole"),
    ):
        line = chain(fields, START).line
        assert line.isascii()
        assert line.isprintable()
        assert len(line) < LONGEST_LINE
        assert json.loads(line)["seq"] == 1
