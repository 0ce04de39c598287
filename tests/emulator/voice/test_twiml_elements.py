"""Documents that are not TwiML, and elements that TwiML does not have."""

import pytest

from .phone import Application, Page, Phone

APOLOGY = "We are sorry, an application error has occurred. Goodbye."


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("", "12100"),
        ("hello", "12100"),
        ("<Response><Say>Hello</Response>", "12100"),
        ("<response/>", "12100"),
        ("<Say>Hello</Say>", "12100"),
        ('<?xml version="1.0" encoding="no-such"?><Response/>', "12100"),
        ('<?xml version="1.0" encoding="utf-32"?><Response/>', "12100"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><Response><Say>&d;</Say></Response>', "12100"),
        ("<Response><Speak>Hello</Speak></Response>", "12200"),
        ("<Response><say>Hello</say></Response>", "12200"),
        ("<Response><Gather><Dial/></Gather></Response>", "12200"),
        ("<Response><Dial><Say>Hello</Say></Dial></Response>", "12200"),
        ('<Response xmlns="urn:x"/>', "12100"),
        (f"<Response><Say>{'a' * 65_536}</Say></Response>", "11750"),
        (f"<Response><Say>{'ä' * 33_000}</Say></Response>", "11750"),
        (f"<Response><Say>{'<a>' * 30_000}</Say></Response>", "11750"),
    ],
)
def test_an_invalid_document_ends_the_call_with_an_apology(
    phone: Phone, application: Application, document: str, code: str
) -> None:
    application.pages["/start"] = Page(document)
    sid = phone.call(Url=f"{application.url}/start")
    phone.advance(60)
    assert phone.error_codes(sid) == [code]
    assert phone.heard(sid) == [APOLOGY]
    assert phone.record(sid)["status"] == "completed"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ('<?xml version="1.0" encoding="UTF-8"?><Response><Say>Grüße</Say></Response>', "Grüße"),
        ("<Response><!-- a note --><Say>Hello</Say></Response>", "Hello"),
        ("<Response><Say>\n  Hello\n  there  </Say></Response>", "Hello there"),
        ("<Response><Say>Hello <break/><emphasis>you</emphasis>!</Say></Response>", "Hello you!"),
        ("<Response><Say><![CDATA[1 < 2]]></Say></Response>", "1 < 2"),
        (f"<Response><Say>{'<p>' * 5000}Deep{'</p>' * 5000}</Say></Response>", "Deep"),
        ('<Response><Say volume="loud">Hello</Say></Response>', "Hello"),
    ],
)
def test_the_text_of_say_is_heard(
    phone: Phone, application: Application, document: str, said: str
) -> None:
    application.pages["/start"] = Page(document)
    sid = phone.call(Url=f"{application.url}/start")
    phone.advance(60)
    assert phone.heard(sid) == [said]


def test_the_twiml_of_a_request_is_checked_when_it_is_executed(phone: Phone) -> None:
    sid = phone.call(Twiml="<Response><Speak/></Response>")
    phone.advance(60)
    assert phone.error_codes(sid) == ["12200"]
    assert phone.heard(sid) == [APOLOGY]


def test_a_misspelled_attribute_is_a_warning(phone: Phone) -> None:
    sid = phone.call('<Gather numdigits="1"><Say looop="2">Hello</Say></Gather>')
    phone.advance(60)
    assert [line for line in phone.story(sid) if "warning" in line] == [
        "0 warning <Gather> has no attribute numdigits",
        "0 warning <Say> has no attribute looop",
    ]
    assert phone.heard(sid) == ["Hello"]


def test_a_document_with_a_doctype_is_refused(phone: Phone) -> None:
    entity = '<!DOCTYPE r [<!ENTITY a "aaaa">]>'
    sid = phone.call(Twiml=f"{entity}<Response><Say>&a;</Say></Response>")
    phone.advance(60)
    assert any("DOCTYPE" in line for line in phone.story(sid))
    assert "aaaa" not in phone.heard(sid)
