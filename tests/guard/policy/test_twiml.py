"""What TwiML that is given as an argument may dial and record."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from twilio.twiml import TwiML, voice_response

from calls_mcp.guard.policy.evaluation import judge, parties
from calls_mcp.guard.twiml_document import read_values
from tests.guard.policy.cases import (
    ACCOUNT,
    BERLIN,
    SHIPPED,
    TWIML,
    asked,
    changed,
    refusal,
    ruling,
)


@pytest.mark.requirement("33")
@pytest.mark.parametrize(
    ("inside", "rule"),
    [
        ("<Dial>+15005550205</Dial>", ""),
        ("<Dial> +1 (500) 555-0205 </Dial>", ""),
        ("<Dial><Number>+15005550205</Number></Dial>", ""),
        ("<Dial><Sip>sip:bob@example.com</Sip><Client>alice</Client></Dial>", ""),
        ("<Dial>\n  <Client><Identity>alice</Identity></Client>\n</Dial>", ""),
        ("<Dial><Conference>Room 1</Conference></Dial>", ""),
        ("<Say>+19005550123</Say>", ""),
        ('<Dial record="do-not-record">+15005550205</Dial>', ""),
        ("<Dial>+911</Dial>", "destinations.emergency"),
        ("<Dial>+19005550123</Dial>", "destinations.deny_number_types"),
        ("<Dial><Number>+1 900 555 0123</Number></Dial>", "destinations.deny_number_types"),
        ("<Gather><Dial>+911</Dial></Gather>", "destinations.emergency"),
        ("<Dial>500-555-0205</Dial>", "destinations.twiml"),
        ("<Dial>+1900\n5550123</Dial>", "destinations.deny_number_types"),
        ("<Dial>+1\t900 555\u00a00123</Dial>", "destinations.deny_number_types"),
        ("<Dial>+1900x5550123</Dial>", "destinations.twiml"),
        ('<Sms to="+19005550123">Hi</Sms>', "destinations.deny_number_types"),
        ("<Play>http://169.254.169.254/x</Play>", "urls.always"),
        ('<Connect><Stream url="ws://10.0.0.1/x"/></Connect>', "urls.always"),
        ("<Dial><Sip>bob@example.com</Sip></Dial>", "destinations.twiml"),
    ],
)
def test_parties_dialed_by_twiml_follow_the_destination_rules(inside: str, rule: str) -> None:
    assert ruling(SHIPPED, asked(twiml=f"<Response>{inside}</Response>")) == rule


@pytest.mark.parametrize(
    ("inside", "is_refused"),
    [
        ("<Play>http://example.com/x.mp3</Play>", True),
        ('<Gather action="HTTP://example.com/"/>', True),
        ('<Connect><Stream url="ws://example.com/"/></Connect>', True),
        ("<Play>https://example.com/x.mp3</Play>", False),
        ('<Connect><Stream url="wss://example.com/"/></Connect>', False),
        ("<Say>Read http://example.com/</Say>", False),
    ],
)
def test_urls_in_twiml_must_be_https(inside: str, *, is_refused: bool) -> None:
    arguments = asked(twiml=f"<Response>{inside}</Response>")
    assert ruling(SHIPPED, arguments) == ("urls.https_only" if is_refused else "")
    assert ruling(changed("urls", https_only=False), arguments) == ""


def test_sip_addresses_and_clients_dialed_by_twiml_must_match_a_pattern() -> None:
    sip = "<Response><Dial><Sip>sip:bob@example.com</Sip></Dial></Response>"
    client = "<Response><Dial><Client>alice</Client></Dial></Response>"
    nobody = changed("destinations", allow_sip=(), allow_clients=())
    assert ruling(nobody, asked(twiml=sip)) == "destinations.allow_sip"
    assert ruling(nobody, asked(twiml=client)) == "destinations.allow_clients"
    assert ruling(nobody, asked("update_call", twiml=client)) == "destinations.allow_clients"


@pytest.mark.parametrize(
    "inside",
    [
        "<Record/>",
        "<Start><Recording/></Start>",
        '<Start><Siprec connectorName="Recorder"/></Start>',
        "<Start><Transcription/></Start>",
        '<Start><Stream url="wss://example.com/"/></Start>',
        '<Start><Connect/><Stream url="wss://example.com/"/></Start>',
        "<Start><Stop/><Recording/></Start>",
        "<Stop><Start><Recording/></Start></Stop>",
        '<Dial record="record-from-answer">+15005550205</Dial>',
        '<Dial><Conference record="record-from-start">Room</Conference></Dial>',
    ],
)
def test_twiml_records_only_where_recording_is_allowed(inside: str) -> None:
    twiml = f"<Response>{inside}</Response>"
    assert ruling(SHIPPED, asked(twiml=twiml)) == "caps.record"
    assert ruling(changed("caps", record=True), asked(twiml=twiml)) == ""


@pytest.mark.parametrize(
    "inside",
    [
        '<Stop><Recording name="a"/></Stop>',
        '<Stop><Transcription name="a"/><Siprec name="b"/><Stream name="c"/></Stop>',
    ],
)
def test_a_recording_may_be_stopped_where_recording_is_not_allowed(inside: str) -> None:
    assert ruling(SHIPPED, asked(twiml=f"<Response>{inside}</Response>")) == ""


@pytest.mark.parametrize(
    ("to", "rules", "rule"),
    [
        ("12345", {}, ""),
        ("12345", {"deny_prefixes": ("+49",)}, "destinations.twiml"),
        ("+15005550205", {"deny_prefixes": ("+49",)}, ""),
        ("911", {}, "destinations.twiml"),
        ("20123456", {}, "destinations.twiml"),
        ("5005550205", {}, "destinations.twiml"),
        ("+19005550123", {}, "destinations.deny_number_types"),
    ],
)
@pytest.mark.parametrize("element", ["Sms", "Message"])
def test_a_message_may_go_to_a_short_code_unless_there_are_rules_for_numbers(
    element: str, to: str, rules: dict[str, Any], rule: str
) -> None:
    twiml = f'<Response><{element} to="{to}">Hello</{element}></Response>'
    assert ruling(changed("destinations", **rules), asked(to="+15005550205", twiml=twiml)) == rule


@pytest.mark.parametrize("message", ["<Sms>Hi</Sms>", '<Message to=" "><Body>Hi</Body></Message>'])
@pytest.mark.parametrize("tool", ["create_call", "update_call"])
def test_a_message_must_name_its_recipient(tool: str, message: str) -> None:
    arguments = asked(tool, twiml=f"<Response>{message}</Response>")
    denied = refusal(SHIPPED, arguments)
    assert denied.rule == "destinations.twiml"
    assert "does not say to which number" in denied.message
    assert parties(arguments) == ((BERLIN,) if tool == "create_call" else ())


def test_a_short_code_is_not_dialed() -> None:
    twiml = "<Response><Dial>12345</Dial></Response>"
    assert ruling(SHIPPED, asked(twiml=twiml)) == "destinations.twiml"


@pytest.mark.parametrize(
    ("tool", "values"),
    [("create_call", {"to": "+15005550205"}), ("update_call", {})],
)
def test_a_messaged_number_counts_as_a_party(tool: str, values: dict[str, Any]) -> None:
    twiml = '<Response><Sms to="12345">Hello</Sms></Response>'
    assert parties(asked(tool, twiml=twiml, **values))[-1] == "12345"


@pytest.mark.parametrize(
    ("caps", "tool", "values", "dial", "rule"),
    [
        ({}, "create_call", {}, "", ""),
        ({}, "create_call", {}, 'timeLimit="14400" timeout="600"', ""),
        ({}, "update_call", {}, "", ""),
        ({}, "create_call", {}, 'timeLimit="14401"', "caps.time_limit"),
        ({"time_limit": 60}, "create_call", {}, "", ""),
        ({"time_limit": 60}, "create_call", {}, 'timeLimit="61"', "caps.time_limit"),
        ({"time_limit": 60}, "update_call", {}, 'timeLimit=" 60 "', ""),
        ({"time_limit": 60}, "update_call", {}, 'timeLimit="61"', "caps.time_limit"),
        ({"time_limit": 60}, "update_call", {}, "", "caps.time_limit"),
        ({"time_limit": 60}, "update_call", {}, 'timeLimit=" "', "caps.time_limit"),
        ({"time_limit": 60}, "update_call", {"time_limit": 60}, "", ""),
        (
            {"time_limit": 60},
            "update_call",
            {"time_limit": 60},
            'timeLimit="1h"',
            "caps.time_limit",
        ),
        ({"time_limit": 60}, "update_call", {}, 'timeLimit="-1"', "caps.time_limit"),
        ({"time_limit": 60}, "update_call", {}, 'timeLimit="0"', "caps.time_limit"),
        ({"time_limit": 60}, "update_call", {}, 'timeLimit="٣"', "caps.time_limit"),
        ({"time_limit": 0}, "create_call", {}, 'timeLimit="99999"', ""),
        ({"timeout": 29}, "create_call", {}, "", "caps.timeout"),
        ({"timeout": 29}, "create_call", {"timeout": 9}, "", "caps.timeout"),
        ({"timeout": 29}, "create_call", {}, 'timeout="29"', ""),
        ({"timeout": 29}, "update_call", {}, 'timeout="30"', "caps.timeout"),
        ({"timeout": 30}, "update_call", {}, "", ""),
        ({}, "create_call", {}, 'timeout="601"', "caps.timeout"),
    ],
)
def test_each_dial_keeps_the_time_limits(
    caps: dict[str, int], tool: str, values: dict[str, Any], dial: str, rule: str
) -> None:
    policy, number = changed("caps", **caps), "<Number>+15005550205</Number>"
    kept = '<Dial timeLimit="1" timeout="1">+15005550205</Dial>'
    twiml = f"<Response>{kept}<Gather><Dial {dial}>{number}</Dial></Gather></Response>"
    assert ruling(policy, asked(tool, twiml=twiml, **values)) == rule


def test_a_refused_time_in_twiml_is_named_with_its_place_and_limit() -> None:
    policy = changed("caps", time_limit=60, timeout=20)
    twiml = '<Response><Dial timeout="a">+15005550205</Dial></Response>'
    denied = refusal(policy, asked("update_call", twiml=twiml))
    assert (
        "the default timeLimit of <Dial> in twiml is 14400 seconds, and the limit is 60"
        in denied.message
    )
    assert 'twiml has "a" as timeout of <Dial>, which is not a positive number' in denied.message
    assert denied.hint == "Set timeout to 20 or less. Set timeLimit to 60 or less."


@pytest.mark.requirement("34")
@pytest.mark.parametrize("encoding", ["UTF-7", "UTF-16", "nonsense"])
def test_twiml_in_another_encoding_is_refused(encoding: str) -> None:
    twiml = f'<?xml version="1.0" encoding="{encoding}"?><Response/>'
    assert ruling(SHIPPED, asked(twiml=twiml)) == "twiml.well_formed"


def test_the_caller_id_in_twiml_must_be_allowed() -> None:
    policy = changed("caller_ids", allow=("+1500*",))
    dial = '<Response><Dial callerId="{}">+15005550205</Dial></Response>'
    assert ruling(policy, asked(twiml=dial.format("+15005550006"))) == ""
    assert ruling(policy, asked(twiml=dial.format("+442079460000"))) == "caller_ids.allow"


@pytest.mark.parametrize(
    ("allow", "caller", "is_allowed"),
    [
        (("*",), "+15005550006", True),
        (("*",), "client:bob", True),
        (("*",), "sip:bob@example.com", True),
        (("+1500*",), "+15005550006", True),
        (("+1500*",), " +15005550006", False),
        (("+1500*",), "+15005550006 ", False),
        (("+1500*",), "+1500&#10;5550006", False),
        (("+1500*",), "+1500-555-0006", False),
        (("+1500*",), "+1500{{From}}", False),
        (("+1500*",), "+15005550006,+442079460000", False),
        (("+1500*",), "+15005550006@example.com", False),
        (("*@a.com",), "bob@a.com", True),
        (("*@a.com",), "bob@b.com;c=@a.com", False),
        (("*",), "", False),
        (("*",), " ", False),
        (("*",), "anonymous", False),
        (("*",), "{{From}}", False),
        (("anonymous",), "anonymous", True),
        ((), "anonymous", True),
        ((), "", True),
    ],
)
@pytest.mark.parametrize(
    "inside",
    ['<Dial callerId="{}">+15005550205</Dial>', '<Sms to="+15005550205" from="{}">Hello</Sms>'],
)
def test_a_caller_id_in_twiml_must_be_a_plain_address_that_is_allowed(
    inside: str, allow: tuple[str, ...], caller: str, *, is_allowed: bool
) -> None:
    twiml = f"<Response>{inside.format(caller)}</Response>"
    rule = ruling(changed("caller_ids", allow=allow), asked("update_call", twiml=twiml))
    assert rule == ("" if is_allowed else "caller_ids.allow")


def test_pre_approval_does_not_cover_parties_dialed_by_twiml() -> None:
    policy = changed("destinations", pre_approved=("+15005550205",))
    arguments = asked(to="+15005550205", twiml="<Response><Dial>+15005550205</Dial></Response>")
    assert judge(policy, arguments, ACCOUNT).requirement == "never"
    arguments = asked(to="+15005550205", twiml="<Response><Dial>+442079460000</Dial></Response>")
    assert judge(policy, arguments, ACCOUNT).requirement == "confirm"


_NAMES: dict[str, str] = TwiML.MAP


def _official_elements() -> Iterator[tuple[str, str]]:
    """Yield each element that the vendor's library can make, with each of its attributes."""
    module = ast.parse(inspect.getsource(voice_response))
    classes = {each.name: each for each in module.body if isinstance(each, ast.ClassDef)}
    for method in (each for parent in classes.values() for each in parent.body):
        match method:
            case ast.FunctionDef(
                body=[*_, ast.Return(ast.Call(args=[ast.Call(ast.Name(made), _, given)]))]
            ) if made in classes:
                named = re.search(r"self\.name = '(.+)'", ast.unparse(classes[made]))
                element = named[1] if named else made
                constructor = inspect.signature(getattr(voice_response, made)).parameters
                yield element, ""
                for name in (each.arg for each in given):
                    if name and name not in constructor:
                        attribute = _NAMES.get(name) or name
                        yield element, re.sub("_(.)", lambda m: m[1].upper(), attribute)
            case _:
                pass


def test_everything_the_official_library_can_make_is_known() -> None:
    found = {*_official_elements()}
    assert ("Gather", "numDigits") in found
    for element, attribute in found:
        given = f'{attribute}=""' if attribute else ""
        found = read_values(f"<Response><{element} {given}/></Response>")
        assert [value.place for value in found if value.kind == "unknown"] == []


@pytest.mark.parametrize(
    ("inside", "place"),
    [
        ("<Dial><Fax>+15005550205</Fax></Dial>", "<Fax>"),
        ("<say>Hello</say>", "<say>"),
        ('<x:Say xmlns:x="urn:x">Hello</x:Say>', "<x:Say>"),
        ('<Say xmlns="urn:x">Hello</Say>', "the attribute xmlns of <Say>"),
        (
            '<Dial answerUrl="https://example.com/">+15005550205</Dial>',
            "the attribute answerUrl of <Dial>",
        ),
        ("<Gather>https://example.com/</Gather>", "the text in <Gather>"),
        ("+15005550205", "the text in <Response>"),
    ],
)
def test_twiml_that_no_rule_can_check_is_refused_unless_the_operator_allows_it(
    inside: str, place: str
) -> None:
    arguments = asked(twiml=f"<Response>{inside}</Response>")
    denied = refusal(SHIPPED, arguments)
    assert denied.rule == "twiml.unknown"
    assert f"twiml has {place}, which the policy can't check" in denied.message
    policy = changed("twiml", unknown=True)
    assert ruling(policy, arguments) == ""
    policy = replace(policy, destinations=replace(policy.destinations, pre_approved=("+4930*",)))
    assert judge(policy, asked(twiml=TWIML), ACCOUNT).requirement == "never"
    assert judge(policy, arguments, ACCOUNT).requirement == "confirm"


@pytest.mark.parametrize(
    "inside",
    [
        "<Sim>DE00000000000000000000000000000000</Sim>",
        "<Application>AP00000000000000000000000000000000</Application>",
        "<Application><ApplicationSid>AP00000000000000000000000000000000</ApplicationSid></Application>",
    ],
)
@pytest.mark.parametrize(
    "rules", [{"allow_countries": ("US",)}, {"deny_prefixes": ("+49",)}, {"allow_sip": ()}]
)
def test_a_party_that_no_rule_can_check_is_refused_where_there_are_rules(
    inside: str, rules: dict[str, Any]
) -> None:
    arguments = asked(to="+15005550205", twiml=f"<Response><Dial>{inside}</Dial></Response>")
    assert ruling(changed("destinations", **rules), arguments) == "destinations.twiml"
    assert ruling(SHIPPED, arguments) == ""
    policy = changed("destinations", pre_approved=("+15005550205",))
    assert judge(policy, arguments, ACCOUNT).requirement == "confirm"


@pytest.mark.parametrize(
    ("header", "is_refused"),
    [
        ('name="X-Customer" value="J\u00a0Smith \u200d"', False),
        ('name="User-to-User" value="56a1;encoding=hex"', False),
        ('name="x-customer"', False),
        ('name="P-Asserted-Identity" value="sip:+19005550123@example.com"', True),
        ('name="Remote-Party-ID" value="x"', True),
        ('name="Route" value="sip:example.org"', True),
        ('name="X-A: 1&#13;&#10;Route" value="x"', True),
        ('name="X-A" value="1&#13;&#10;Route: sip:example.org"', True),
        ('name="X-A" value="1&#10;Route: sip:example.org"', True),
        ('name="X-A" value="&#13;&#10;Route: sip:example.org"', True),
        ('name="X-A" value="1&#10;"', True),
        ('name="X-A&#13;&#10;" value="1"', True),
        ('name="" value="x"', True),
    ],
)
def test_sip_headers_in_twiml_may_only_tell_facts_about_the_call(
    header: str, *, is_refused: bool
) -> None:
    sip = f"<Sip><Headers><Header {header}/></Headers>sip:bob@example.com</Sip>"
    arguments = asked(twiml=f"<Response><Dial>{sip}</Dial></Response>")
    assert ruling(SHIPPED, arguments) == ("destinations.twiml" if is_refused else "")


@pytest.mark.parametrize("break_", ["<!-- -->", "<?x?>", "<![CDATA[1]]>", "<![CDATA[]]>"])
def test_a_number_in_two_parts_is_refused(break_: str) -> None:
    twiml = f"<Response><Dial>+4930{break_}19005551234</Dial></Response>"
    assert ruling(SHIPPED, asked(twiml=twiml)) == "twiml.unknown"


def test_a_number_may_be_in_a_cdata_section() -> None:
    twiml = "<Response><Dial>\n <![CDATA[+15005550205]]>\n</Dial></Response>"
    assert ruling(SHIPPED, asked(twiml=twiml)) == ""


def test_sip_addresses_in_twiml_with_too_many_numbers_are_refused() -> None:
    sip = "<Sip>sip:2001234567*2001234574*2001234581@example.com</Sip>"
    few, many = (f"<Response><Dial>{sip * times}</Dial></Response>" for times in (2, 3))
    assert ruling(SHIPPED, asked(twiml=few)) == ""
    assert ruling(SHIPPED, asked(twiml=many)) == "destinations.twiml"
    long = "*".join(str(2001234567 + i) for i in range(300))
    twiml = f"<Response><Dial><Sip>sip:{long}@example.com</Sip></Dial></Response>"
    assert ruling(SHIPPED, asked(twiml=twiml)) == "destinations.allow_sip"


def test_twiml_that_dials_too_many_parties_is_refused() -> None:
    dial = f"<Dial>{BERLIN}</Dial>"
    assert ruling(SHIPPED, asked(twiml=f"<Response>{dial * 20}</Response>")) == ""
    refused = ruling(SHIPPED, asked(twiml=f"<Response>{dial * 21}</Response>"))
    assert refused == "destinations.twiml"
