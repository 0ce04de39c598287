"""What TwiML that is given as an argument may dial and record."""

import pytest

from calls_mcp.guard.policy import judge
from tests.guard.policy.cases import ACCOUNT, SHIPPED, asked, changed, ruling


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
def test_whom_twiml_dials_is_held_to_the_rules_for_destinations(inside: str, rule: str) -> None:
    assert ruling(SHIPPED, asked(twiml=f"<Response>{inside}</Response>")) == rule


@pytest.mark.parametrize(
    ("inside", "is_refused"),
    [
        ("<Play>http://example.com/x.mp3</Play>", True),
        ('<Gather action="HTTP://example.com/"/>', True),
        ('<Start><Stream url="ws://example.com/"/></Start>', True),
        ("<Play>https://example.com/x.mp3</Play>", False),
        ('<Start><Stream url="wss://example.com/"/></Start>', False),
        ("<Redirect>//example.com/</Redirect>", False),
        ("<Say>Read http://example.com/</Say>", False),
        ('<Say xmlns:x="http://www.w3.org/2001/XMLSchema-instance">Hello</Say>', False),
    ],
)
def test_what_twiml_has_fetched_is_held_to_https(inside: str, *, is_refused: bool) -> None:
    arguments = asked(twiml=f"<Response>{inside}</Response>")
    assert ruling(SHIPPED, arguments) == ("urls.https_only" if is_refused else "")
    assert ruling(changed("urls", https_only=False), arguments) == ""


def test_sip_addresses_and_clients_that_twiml_dials_are_held_to_their_patterns() -> None:
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
        '<Dial record="record-from-answer">+15005550205</Dial>',
        '<Dial><Conference record="record-from-start">Room</Conference></Dial>',
    ],
)
def test_twiml_records_only_where_recording_is_allowed(inside: str) -> None:
    twiml = f"<Response>{inside}</Response>"
    assert ruling(SHIPPED, asked(twiml=twiml)) == "caps.record"
    assert ruling(changed("caps", record=True), asked(twiml=twiml)) == ""


@pytest.mark.requirement("34")
@pytest.mark.parametrize("encoding", ["UTF-7", "UTF-16", "nonsense"])
def test_twiml_in_another_encoding_is_refused(encoding: str) -> None:
    twiml = f'<?xml version="1.0" encoding="{encoding}"?><Response/>'
    assert ruling(SHIPPED, asked(twiml=twiml)) == "twiml.well_formed"


def test_the_caller_id_that_twiml_shows_is_held_to_those_allowed() -> None:
    policy = changed("caller_ids", allow=("+1500*",))
    dial = '<Response><Dial callerId="{}">+15005550205</Dial></Response>'
    assert ruling(policy, asked(twiml=dial.format("+15005550006"))) == ""
    assert ruling(policy, asked(twiml=dial.format("+442079460000"))) == "caller_ids.allow"


def test_pre_approval_covers_nobody_whom_the_twiml_dials() -> None:
    policy = changed("destinations", pre_approved=("+15005550205",))
    arguments = asked(to="+15005550205", twiml="<Response><Dial>+15005550205</Dial></Response>")
    assert judge(policy, arguments, ACCOUNT).requirement == "never"
    arguments = asked(to="+15005550205", twiml="<Response><Dial>+442079460000</Dial></Response>")
    assert judge(policy, arguments, ACCOUNT).requirement == "confirm"
