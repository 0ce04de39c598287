"""Allowed destinations."""

import re
import string
import subprocess
import sys
from dataclasses import replace
from typing import Any
from uuid import UUID

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.guard.policy.destinations import canonical, party
from calls_mcp.guard.policy.evaluation import judge
from calls_mcp.guard.policy.rules import Requirement
from calls_mcp.tools.catalog import Json
from tests.guard.policy.cases import (
    ACCOUNT,
    BERLIN,
    PREMIUM,
    SHIPPED,
    SWISS,
    asked,
    changed,
    refusal,
    ruling,
)


@pytest.mark.requirement("33")
@pytest.mark.parametrize(
    ("rules", "to", "rule"),
    [
        ({"allow_prefixes": ("+49", "+1500")}, BERLIN, ""),
        ({"allow_prefixes": ("+49",)}, SWISS, "allow_prefixes"),
        ({"deny_prefixes": ("+4930",)}, BERLIN, "deny_prefixes"),
        ({"deny_prefixes": ("+4940",)}, BERLIN, ""),
        ({"allow_prefixes": ("+49",), "deny_prefixes": ("+4930",)}, BERLIN, "deny_prefixes"),
        ({"deny_prefixes": ("+4420",)}, "+4402079460000", "deny_prefixes"),
        ({"deny_prefixes": ("+41212",)}, "+4102123456781", "deny_prefixes"),
        ({"allow_prefixes": ("+4402",)}, "+4402079460000", "allow_prefixes"),
        ({"allow_countries": ("DE", "US")}, BERLIN, ""),
        ({"allow_countries": ("DE",)}, SWISS, "allow_countries"),
        ({"allow_countries": ("US",)}, "+14165550123", "allow_countries"),
        ({"allow_countries": ("US",)}, "+19995550123", "allow_countries"),
        ({"allow_countries": ("US",)}, "+99955501234", "allow_countries"),
        ({"deny_countries": ("CH",)}, SWISS, "deny_countries"),
        ({"deny_countries": ("CH",)}, BERLIN, ""),
        ({"deny_countries": ("CA",)}, "+19995550123", "deny_countries"),
        ({"allow_countries": ("CH",), "deny_countries": ("CH",)}, SWISS, "deny_countries"),
        ({}, PREMIUM, "deny_number_types"),
        ({}, "+449098790000", "deny_number_types"),
        ({}, "+979123456789", "deny_number_types"),
        ({"deny_number_types": ()}, PREMIUM, ""),
        ({"deny_number_types": ("toll_free",)}, "+18005551234", "deny_number_types"),
        ({"deny_number_types": ("unknown",)}, "+99955501234", "deny_number_types"),
        ({"deny_number_types": ("toll_free",)}, BERLIN, ""),
        ({"allow_sip": ("*@example.com",)}, "sip:bob@example.com", ""),
        ({"allow_sip": ("*@Example.com",)}, "sips:bob@EXAMPLE.com;transport=tcp?x-a=b", ""),
        ({"allow_sip": ("bob@*",)}, "sip:Bob@example.com", "allow_sip"),
        ({"allow_sip": ("*@example.com",)}, "sip:bob@example.com.evil", "allow_sip"),
        ({"allow_sip": ("*@example.com",)}, "sip:bob@evil;x=@example.com", "allow_sip"),
        ({"allow_sip": ("*@example.com",)}, "sip:bob@evil?x=@example.com", "allow_sip"),
        ({"allow_sip": ("*@example.com",)}, "sip:evil;x=@example.com", "allow_sip"),
        ({"allow_sip": ("*@example.com",)}, "sip:bob@evil@example.com", "allow_sip"),
        ({"allow_sip": ("*",)}, "sip:bob@evil@example.com", "allow_sip"),
        ({"allow_sip": ()}, "sip:bob@example.com", "allow_sip"),
        ({"allow_sip": ()}, BERLIN, ""),
        ({"allow_clients": ("agent-*",)}, "client:agent-7?case=1", ""),
        ({"allow_clients": ("agent-*",)}, "client:Agent-7", "allow_clients"),
        ({"allow_clients": ("*-7",)}, "client:eve?x=agent-7", "allow_clients"),
        ({"allow_clients": ()}, "client:agent-7", "allow_clients"),
        ({"allow_clients": ()}, "sip:bob@example.com", ""),
    ],
)
def test_a_destination_is_called_only_if_the_rules_allow_it(
    rules: dict[str, Any], to: str, rule: str
) -> None:
    expected = f"destinations.{rule}" if rule else ""
    assert ruling(changed("destinations", **rules), asked(to=to)) == expected


@pytest.mark.requirement("33")
@pytest.mark.parametrize(
    "to",
    [
        *("+911", "+112", "+999", "+110", "+1911", "+44999", "+49112", "+61000", "+33112"),
        *("+2710111", "+227723141", "+1212"),
        *("+3530999", "+3758112", "+1911555", "+4911055", "+35399912"),
    ],
)
@pytest.mark.parametrize("types", [("premium_rate",), ()])
def test_emergency_numbers_are_refused_whatever_the_settings(
    to: str, types: tuple[str, ...]
) -> None:
    policy = changed("destinations", deny_number_types=types, pre_approved=(to,))
    denied = refusal(policy, asked(to=to))
    assert denied.rule == "destinations.emergency"
    assert "dial it themselves" in denied.hint


@pytest.mark.parametrize(
    ("to", "number"),
    [
        ("sip:anna+1@example.com", "+1"),
        ("sip:*67911@example.com", "911"),
        ("sip:9*67911@example.com", "911"),
        ("sip:*70*67911@example.com", "911"),
        ("sip:#31#*43112@example.com", "112"),
        ("sip:9w1w1@example.com", "911"),
        ("sip:9x1,1@example.com", "911"),
        ("sip:0,9p1-p-1@example.com", "0911"),
        ("sip:a+911@b.c", "+911"),
    ],
)
def test_a_short_number_in_a_sip_address_is_named(to: str, number: str) -> None:
    denied = refusal(SHIPPED, asked(to=to))
    assert denied.rule == "destinations.emergency"
    assert f"a SIP address that a gateway may dial as {number}," in str(denied)
    assert "another address" in denied.hint


@given(
    line=st.sampled_from(["", "0", "9", "00", "011"]),
    number=st.sampled_from(["112", "911", "999", "9-1-1", "%39%31%31", "1.1.2"]),
    pause=st.sampled_from([*"!$&'()*=_~,wpxua", "ext", ",,", "%2c", "%23", "%EF%BC%8C"]),
    end=st.sampled_from(["", "1", "5", "911000", "x"]),
    start=st.sampled_from(["", "9,", "0w", "(", "u", "x,", "room-"]),
)
def test_emergency_numbers_in_a_sip_address_are_refused_whatever_is_around_them(
    line: str, number: str, pause: str, end: str, start: str
) -> None:
    spelling = f"sip:{start}{line}{number}{pause}{end}@example.com"
    policy = changed("destinations", deny_number_types=(), pre_approved=(spelling,))
    arguments = replace(asked(), values={**asked().values, "to": spelling})
    assert ruling(policy, arguments) == "destinations.emergency"


@given(
    number=st.sampled_from([BERLIN, PREMIUM, SWISS, "+442079460000", "+12025550171"]).flatmap(
        lambda number: st.sampled_from([number, number[1:], f"00{number[1:]}"])
    ),
    pause=st.sampled_from([*"!$&'=~,wpx", "ext", ",,", "ww", "%2c", "%23,", "%EF%BC%8C"]),
    digits=st.from_regex(r"[0-9]{0,8}", fullmatch=True),
    is_before=st.booleans(),
)
def test_a_number_with_a_pause_in_a_sip_address_is_refused_because_a_part_of_it_may_be_dialed(
    number: str, pause: str, digits: str, *, is_before: bool
) -> None:
    user = f"{digits}{pause}{number}" if is_before else f"{number}{pause}{digits}"
    policy = changed("destinations", deny_number_types=())
    values = {**asked().values, "to": f"sip:{user}@example.com"}
    refused = ruling(policy, replace(asked(), values=values))
    assert refused


@pytest.mark.parametrize(
    "user",
    [
        *("1w900w555w1234", "1,900,555,1234", "1x900-555x1234", "1_900w555_1234"),
        *("1w900w555w1234_", "9*67w1w900w555w1234"),
    ],
)
def test_a_number_with_pauses_between_its_digits_is_that_number(user: str) -> None:
    to = f"sip:{user}@example.com"
    assert ruling(SHIPPED, asked(to=to)) == "destinations.deny_number_types"


@pytest.mark.parametrize("user", ["9_1w1", "9w1w1_", "0*9w1w1", "*67w9w1w1", "9wext1w1", "9*67911"])
def test_an_emergency_number_with_pauses_between_its_digits_is_refused(user: str) -> None:
    assert ruling(SHIPPED, asked(to=f"sip:{user}@example.com")) == "destinations.emergency"


@pytest.mark.parametrize(
    "user",
    [
        *("200*100", "1001*200", "1001*2001", "5*500", "8*2000#", "100*8001", "*98*100", "*1001"),
        *("100*1112", "100*2911", "12w34", "100&200", "1001,22"),
    ],
)
def test_an_extension_with_a_code_or_pin_is_allowed(user: str) -> None:
    assert ruling(SHIPPED, asked(to=f"sip:{user}@example.com")) == ""


@pytest.mark.parametrize("digits", ["", "0", "0" * 9, "0" * 27])
def test_any_number_of_extra_digits_is_ignored(digits: str) -> None:
    for to in (f"sip:{PREMIUM}{digits}@gw", f"sip:{PREMIUM[1:]}{digits}@gw"):
        assert ruling(SHIPPED, asked(to=to)) == "destinations.deny_number_types"


def test_a_user_that_would_take_long_to_check_is_refused() -> None:
    twiml = f"<Response><Dial><Sip>sip:{'9' * 129}@example.com</Sip></Dial></Response>"
    assert ruling(SHIPPED, asked(twiml=twiml)) == "destinations.allow_sip"


@pytest.mark.parametrize(
    "user", ["9*6719005551234", "9*116719005551234", "*70*6719005551234", "*70#31#19005551234"]
)
def test_all_service_codes_before_a_number_are_recognized(user: str) -> None:
    to = f"sip:{user}@example.com"
    assert ruling(SHIPPED, asked(to=to)) == "destinations.deny_number_types"


@given(st.uuids(version=4).filter(lambda uuid: not re.search("112|911|999", uuid.hex)))
def test_an_id_is_not_a_number(uuid: UUID) -> None:
    for user in (str(uuid), uuid.hex, f"call_{uuid.hex}"):
        assert ruling(SHIPPED, asked(to=f"sip:{user}@example.com")) == ""


@pytest.mark.parametrize("user", ["9+{}", "u+{}", "*70*67+{}"])
def test_a_number_with_a_plus_in_a_sip_address_is_the_party_whatever_is_around_it(
    user: str,
) -> None:
    assert party(f"sip:{user.format('12025550171')}@example.com") == "+12025550171"


@pytest.mark.parametrize(
    "user",
    [
        "alice",
        "100",
        "100,1",
        "desk-7",
        "3rd-floor",
        "o'brien2",
        "r&d_2",
        "agent4930123456",
        "4930123456west",
        "front.desk_20260102",
        "550e8400-e29b-41d4-a716-446655440000",
        "(030)-1234",
    ],
)
def test_a_name_with_digits_in_a_sip_address_is_not_a_number_with_a_pause(user: str) -> None:
    assert ruling(SHIPPED, asked(to=f"sip:{user}@example.com")) == ""


@given(
    number=st.sampled_from([PREMIUM, "+449098790000", "+33899123456"]),
    start=st.sampled_from(["+", "", "00", "011", "0011"]),
    digits=st.from_regex(r"[0-9]{1,2}", fullmatch=True),
    code=st.sampled_from(["", "*67", "tel"]),
)
def test_extra_digits_after_a_number_in_a_sip_address_are_ignored_in_every_spelling(
    number: str, start: str, digits: str, code: str
) -> None:
    values = {**asked().values, "to": f"sip:{code}{start}{number[1:]}{digits}@example.com"}
    refused = ruling(SHIPPED, replace(asked(), values=values))
    assert refused == "destinations.deny_number_types"


@given(
    start=st.sampled_from(["+", "", "00", "011", "0011"]),
    digits=st.from_regex(r"[0-9]{0,2}", fullmatch=True),
)
def test_a_number_in_a_sip_address_is_the_same_party_with_extra_digits(
    start: str, digits: str
) -> None:
    number = "+12025550171"
    assert party(f"sip:{start}{number[1:]}{digits}@example.com") == number


@pytest.mark.parametrize(
    "rest",
    [
        ";x@evil.example",
        ";x%40evil.example",
        ";x>,<sip:911@gw.example",
        ";x%3E",
        ";a,sip:+15005550006",
        ";a%2Csip:+15005550006",
        ';a="b"',
        ";a%20b",
        ";a%09b",
        ";a%C2%A0b",
        "?X-A=%0d%0aTo:%20%3csip:911@gw%3e",
        "?X-A=a%0aTo:bob",
        "?X-A=a@evil.example",
        "?X-A=%3Csip:evil.example%3E",
        "?X-A=a,b",
        "?X-A=%22b",
        "?X-A=%00",
        ":65536",
        ":99999999",
        ":0",
        "?From=anna",
        "?f=anna",
        "?t=anna",
        "?r=anna",
        "?Diversion=anna",
        "?Identity=anna",
        "?Route=sip:evil.example",
        "?body=a",
        "?X-A=b&Contact=anna",
        "?X-A=b%26Contact=anna",
        "?%20Contact=anna",
        "?",
    ],
)
def test_a_sip_address_that_another_program_could_understand_differently_is_refused(
    rest: str,
) -> None:
    policy = changed("destinations", pre_approved=("sip:desk@example.com", "sip:*"))
    denied = refusal(policy, asked(to=f"sip:desk@example.com{rest}"))
    assert denied.rule == "destinations.allow_sip"
    assert "understood in more than one way" in denied.message


@pytest.mark.parametrize("rest", [";x, sip:911@gw", "; x", ";\nx", "?X-A=b c", " ;x", ";x\u00a0y"])
def test_a_sip_address_with_spaces_in_twiml_is_refused(rest: str) -> None:
    sip = f"<Response><Dial><Sip>sip:desk@example.com{rest}</Sip></Dial></Response>"
    assert ruling(SHIPPED, asked(twiml=sip)) == "destinations.allow_sip"


@pytest.mark.parametrize(
    "address",
    [
        "sip:alice@pbx.example.com;transport=tls",
        "sip:100@pbx",
        "sip:+12025550123@gw;user=phone",
        "sip:desk@pbx?X-Customer=1",
        "sips:desk@pbx:65535;lr;transport=tls?x-name=J%20Smith&User-to-User=56a1;encoding=hex",
    ],
)
def test_a_sip_address_may_have_parameters_and_headers_with_facts_about_the_call(
    address: str,
) -> None:
    assert ruling(SHIPPED, asked(to=address)) == ""


@pytest.mark.parametrize("to", ["+2904000", "+6834000", "+36112345678", BERLIN, SWISS])
def test_a_short_subscriber_number_is_not_an_emergency_number(to: str) -> None:
    assert ruling(SHIPPED, asked(to=to)) == ""


def test_emergency_numbers_are_never_longer_than_the_lookup_limit() -> None:
    longest = 0
    for code, regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.items():
        for region in regions:
            short = phonenumbers.PhoneMetadata.short_metadata_for_region(region)
            emergency = short.emergency if short else None
            lengths = emergency.possible_length if emergency else ()
            longest = max([longest, *(len(str(code)) + length for length in lengths)])
    assert longest == 9


@given(st.integers(0, 9999).map("+1500555{:04}".format))
def test_the_default_policy_allows_all_of_twilios_test_numbers(to: str) -> None:
    assert ruling(SHIPPED, asked(to=to)) == ""


@pytest.mark.parametrize(
    ("known", "to", "approved"),
    [
        (BERLIN, BERLIN, True),
        (BERLIN, BERLIN + "9", False),
        ("+4930*", BERLIN, True),
        ("+4940*", BERLIN, False),
        ("sip:bob@*", "sip:bob@example.com", True),
        ("client:alice", "client:alice", True),
        ("client:alice", "client:alice2", False),
        ("sips:bob@*", "sip:bob@example.com", True),
        ("sip:bob@example.com", "sip:bob@example.com;maddr=192.0.2.1", False),
        ("sip:bob@example.com", "sip:%62ob@EXAMPLE.com;transport=tcp", True),
        ("sip:4930*", "sip:493012345678@example.com", True),
        ("sip:+4930*", "sip:493012345678@example.com", True),
        ("sip:+4930*", "sip:*67+493012345678@example.com", False),
    ],
)
@pytest.mark.parametrize("requirement", ["confirm", "require_human"])
def test_a_pre_approved_destination_is_called_without_confirmation(
    known: str, to: str, requirement: Requirement, *, approved: bool
) -> None:
    policy = changed("destinations", pre_approved=(known,))
    policy = replace(policy, confirm=replace(policy.confirm, place=requirement))
    judgement = judge(policy, asked(to=to), ACCOUNT)
    exempt = ("never", "destinations.pre_approved")
    expected = exempt if approved else (requirement, "confirm.place")
    assert (judgement.requirement, judgement.rule) == expected


@pytest.mark.parametrize(
    "keys",
    [
        {"send_digits": "ww9"},
        {"twiml": "<Response><Play digits='9'/></Response>"},
        {"twiml": f"<Response><Dial><Number sendDigits='9'>{BERLIN}</Number></Dial></Response>"},
    ],
)
def test_pre_approval_does_not_cover_keys_because_a_phone_system_may_dial_them(
    keys: dict[str, Json],
) -> None:
    policy = changed("destinations", pre_approved=(BERLIN,))
    assert judge(policy, asked("create_call", **keys), ACCOUNT).requirement == "confirm"


@pytest.mark.parametrize(
    "source",
    [
        {"url": "https://example.com/"},
        {"fallback_url": "https://example.com/"},
        {"twiml": "<Response><Redirect>https://example.com/</Redirect></Response>"},
        {"twiml": "<Response><Gather action='https://example.com/'/></Response>"},
        {"twiml": "<Response><Connect><Stream url='wss://example.com/'/></Connect></Response>"},
    ],
)
@pytest.mark.parametrize(
    ("hosts", "requirement"),
    [(("*",), "confirm"), (("*", "example.com"), "confirm"), (("example.com",), "never")],
)
def test_pre_approval_covers_instructions_at_urls_only_if_their_hosts_are_listed(
    source: dict[str, Json], hosts: tuple[str, ...], requirement: Requirement
) -> None:
    policy = changed("destinations", pre_approved=(BERLIN,))
    policy = replace(policy, urls=replace(policy.urls, hosts=hosts))
    assert judge(policy, asked("create_call", **source), ACCOUNT).requirement == requirement


def test_pre_approval_does_not_cover_an_application_because_its_instructions_are_unknown() -> None:
    policy = changed("destinations", pre_approved=(BERLIN,))
    policy = replace(policy, urls=replace(policy.urls, hosts=("example.com",)))
    assert judge(policy, asked(application_sid="AP" + "0" * 32), ACCOUNT).requirement == "confirm"


def test_a_pre_approved_destination_is_still_refused_by_another_rule() -> None:
    policy = changed("destinations", pre_approved=(PREMIUM,))
    assert ruling(policy, asked(to=PREMIUM)) == "destinations.deny_number_types"
    policy = replace(policy, confirm=replace(policy.confirm, place="deny"))
    assert ruling(policy, asked(to=PREMIUM)) == "confirm.place"


@pytest.mark.parametrize(
    ("rules", "to", "rule"),
    [
        ({}, "sip:%39%31%31@example.com", "emergency"),
        ({}, "sip:9-1-1@example.com", "emergency"),
        ({}, "sip:(911)@example.com", "emergency"),
        ({}, "sip:\uff19\uff11\uff11@example.com", "emergency"),
        ({}, "sip:9911@example.com", "emergency"),
        ({}, "sip:0-999@example.com", "emergency"),
        ({}, "SIPS:911;phone-context=+1@example.com", "allow_sip"),
        ({}, "sip:5551234;phone-context=+1900@example.com", "allow_sip"),
        ({}, "sip:5551234%3Bphone-context=%2B1900@example.com", "allow_sip"),
        ({}, f"sip:{BERLIN};rn=+19005551234;npdi@example.com", "allow_sip"),
        ({}, "sip:+1.911@example.com", "emergency"),
        ({}, "sip:+19005551234@example.com", "deny_number_types"),
        ({}, "sip:%2B1-900-555-1234@example.com", "deny_number_types"),
        ({}, "sip:19005551234@example.com", "deny_number_types"),
        ({}, "sip:0019005551234@example.com", "deny_number_types"),
        ({}, "sip:01119005551234@example.com", "deny_number_types"),
        ({}, "sip:09001234567@example.com", "deny_number_types"),
        ({}, "sip:911,@example.com", "emergency"),
        ({}, "sip:+0019005551234@example.com", "allow_sip"),
        ({}, "sip:%252B19005551234@example.com", "allow_sip"),
        ({}, "sip:+1_900_555_1234@example.com", "allow_sip"),
        ({}, "sip:+19005551234,1@example.com", "allow_sip"),
        ({}, "sip:*6719005551234@example.com", "deny_number_types"),
        ({}, "sip:*67+19005551234@example.com", "deny_number_types"),
        ({}, "sip:*31%2319005551234%23@example.com", "deny_number_types"),
        ({}, "sip:*1167-1-900-555-1234@example.com", "deny_number_types"),
        ({}, "sip:tel+19005551234@example.com", "deny_number_types"),
        ({}, "sip:tel19005551234@example.com", "deny_number_types"),
        ({}, "sip:x+19005551234@example.com", "deny_number_types"),
        ({}, "sip:001119005551234@example.com", "deny_number_types"),
        ({}, "sip:9+19005551234@example.com", "deny_number_types"),
        ({}, "sip:%D9%A1%D9%A9%D9%A0%D9%A05551234@example.com", "deny_number_types"),
        ({}, "sip:*67911@example.com", "emergency"),
        ({}, "sip:911%23@example.com", "emergency"),
        ({}, "sip:00911@example.com", "emergency"),
        ({"deny_number_types": ()}, "sip:01149112@example.com", "emergency"),
        ({}, "sip:*98@example.com", ""),
        ({}, "sip:agent-4930123456@example.com", ""),
        ({"allow_countries": ("DE",)}, "sip:*67493012345678@example.com", "allow_sip"),
        ({"allow_countries": ("DE",)}, "sip:*31%23+493012345678@example.com", "allow_sip"),
        ({"allow_countries": ("DE",)}, "sip:4930*12345678@example.com", "allow_sip"),
        ({"allow_countries": ("DE",)}, "sip:agent-4930123456@example.com", "allow_sip"),
        ({"deny_number_types": ("mobile",)}, "sip:agent-4930123456@example.com", "allow_sip"),
        ({"allow_countries": ("DE",)}, "sip:agent-7@example.com", ""),
        ({"allow_countries": ("DE",)}, "sip:493012345678%23@example.com", ""),
        ({"allow_countries": ("DE",)}, "sip:0011493012345678@example.com", ""),
        ({"deny_countries": ("DE",)}, "sip:0011493012345678@example.com", "deny_countries"),
        ({"deny_countries": ("DE",)}, "sip:0081493012345678@example.com", "allow_sip"),
        ({}, "sip:1000@example.com", ""),
        ({}, "sip:alice@example.com", ""),
        ({}, f"sip:{BERLIN}@example.com", ""),
        ({"allow_countries": ("US",)}, f"sip:{BERLIN}@example.com", "allow_countries"),
        ({"allow_countries": ("DE",)}, f"sip:{BERLIN}@example.com", ""),
        ({"allow_countries": ("DE",)}, "sip:03012345678@example.com", "allow_sip"),
        ({"deny_prefixes": ("+4930",)}, "sip:49 30 12345678@example.com", "deny_prefixes"),
        ({"allow_sip": ("*@example.com",)}, "sip:bob@EXAMPLE.com.;transport=tcp", ""),
        ({"allow_sip": ("*@example.com",)}, "sip:bob@example.com;maddr=evil.com", "allow_sip"),
        ({"allow_sip": ("*@example.com",)}, "sip:bob@example.com;%6Daddr=evil.com", "allow_sip"),
        ({"allow_sip": ("*@example.com",)}, "sip:b@example.com?Route=sip:evil", "allow_sip"),
        ({}, "sip:bob@example.com?Remote-Party-ID=%3Csip:+15005550006@a.com%3E", "allow_sip"),
        ({}, "sip:bob@example.com?x-a=b&P-%43alled-Party-ID=sip:911@a.com", "allow_sip"),
        ({}, "sip:bob@example.com?X-Case=7&User-to-User=a", ""),
        ({"allow_sip": ("*@[2001:db8::1]",)}, "sip:bob@[2001:DB8::1]:5060", ""),
        ({"allow_sip": ("*@[2001:db8::1]",)}, "sip:bob@[2001:0db8:0:0::0001]", ""),
        ({"allow_sip": ("*@[2001:db8::1]",)}, "sip:bob@2", "allow_sip"),
        ({}, "sip:bob@[2001:db8::1::2]", "allow_sip"),
        ({}, "sip:bob@[fe80::1%25eth0]", "allow_sip"),
        ({}, "sip:bob@example.com..", "allow_sip"),
        ({"allow_sip": ("[ab]ob@*",)}, "sip:bob@example.com", "allow_sip"),
        ({"allow_sip": ("bob@*",)}, "sip:%62ob@example.com", ""),
        ({"allow_sip": ("bob@*",)}, "sip:bob%40evil.com@example.com", "allow_sip"),
        ({}, "sip:bob%0a@example.com", "allow_sip"),
        ({}, "sip:%ff@example.com", "allow_sip"),
        ({}, "sip:bob@exa%6Dple.com%2eevil", ""),
    ],
)
def test_a_sip_address_is_decoded_before_any_rule_is_applied(
    rules: dict[str, Any], to: str, rule: str
) -> None:
    expected = f"destinations.{rule}" if rule else ""
    arguments = replace(asked(), values={**asked().values, "to": to})
    assert ruling(changed("destinations", **rules), arguments) == expected


def _spelled(text: str, encoded: list[bool]) -> str:
    """Return a text with some of its characters percent-encoded."""
    return "".join(
        f"%{ord(c):02x}" if encode else c for c, encode in zip(text, encoded, strict=True)
    )


@given(
    user=st.text(string.ascii_lowercase + string.digits, max_size=12).map("u{}".format),
    data=st.data(),
    scheme=st.sampled_from(["sip", "SIP", "sips"]),
    host=st.sampled_from(["example.com", "EXAMPLE.com", "example.com.", "example.com:5060"]),
    tail=st.sampled_from(["", ";transport=tcp", ";user=phone?X-Case=7"]),
)
def test_all_spellings_of_a_sip_address_have_one_canonical_form(
    user: str, data: st.DataObject, scheme: str, host: str, tail: str
) -> None:
    spelled = user.upper()
    encoded = data.draw(st.lists(st.booleans(), min_size=len(user), max_size=len(user)))
    spelling = f"{scheme}:{_spelled(spelled, encoded)}@{host}{tail}"
    assert canonical(spelling) == f"sip:{user}@example.com"


@given(
    number=st.sampled_from([BERLIN, PREMIUM, SWISS, "+442079460000", "+15005550006"]),
    start=st.sampled_from(["+", "", "00", "011", "0011"]),
    code=st.sampled_from(["", "*67", "*31%23", "%2331%23", "*%2331%23", "tel", "*67-"]),
    end=st.sampled_from(["", "%23"]),
    separators=st.lists(st.sampled_from(["", "", ".", "-", "%20"]), min_size=13, max_size=13),
)
def test_all_spellings_of_a_number_in_a_sip_address_are_one_party_under_the_same_rules(
    number: str, start: str, code: str, end: str, separators: list[str]
) -> None:
    digits = "".join(a + b for a, b in zip(separators, number[1:], strict=False))
    spelling = f"sip:{code}{start}{digits}{end}@example.com"
    plain = f"sip:{number}@example.com"
    assert canonical(spelling) == plain
    rules = {"deny_countries": ("CH",), "allow_prefixes": ("+1", "+4930", "+4120")}
    for policy in (SHIPPED, changed("destinations", **rules)):
        refused = ruling(policy, asked(to=plain))
        rule = ruling(policy, replace(asked(), values={**asked().values, "to": spelling}))
        assert rule == refused or (rule and code)


@pytest.mark.process
@pytest.mark.parametrize("to", [BERLIN, "sip:bob@example.com"])
def test_the_numbering_plans_are_loaded_only_if_a_rule_needs_them(to: str) -> None:
    program = (
        "import sys\n"
        "from dataclasses import replace\n"
        "from calls_mcp.guard.policy.rules import load_policy\n"
        "from calls_mcp.guard.policy.destinations import object_to_destination\n"
        "rules = load_policy().destinations\n"
        "free = replace(rules, deny_number_types=())\n"
        f"assert not [*object_to_destination(free, {to!r})]\n"
        "assert 'phonenumbers' not in sys.modules\n"
        "assert 'jsonschema' not in sys.modules\n"
        f"assert [*object_to_destination(rules, {PREMIUM!r})]\n"
        "assert 'phonenumbers' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603  # our own text
