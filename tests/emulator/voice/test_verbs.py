"""The verbs of one call: what is heard, asked and recorded, and what ends it."""

import pytest

from calls_mcp.emulator import Script

from .phone import CALLEE, Application, Asked, Page, Phone, switched_on

OWN = "+12025550177"
MENU = '<Gather action="/chosen" {}><Say>Press a key.</Say></Gather><Say>Nothing.</Say>'


@pytest.mark.parametrize(
    ("verbs", "duration"),
    [
        ("<Hangup/>", "0"),
        ("<Say>Hello</Say><Hangup/>", "1"),
        ("<Say>It takes three seconds to say all of this.</Say>", "3"),
        ('<Say loop="3">Hello</Say>', "3"),
        ('<Say loop="0">Hello</Say>', "1000"),
        ("<Play>https://example.com/hello.mp3</Play>", "5"),
        ('<Play loop="2">https://example.com/hello.mp3</Play>', "10"),
        ('<Play digits="1w2WW3"/>', "3"),
        ('<Play digits="hello?"/>', "0"),
        ('<Pause length="5"/><Pause/><Hangup/><Pause length="9"/>', "6"),
        ('<Pause length="soon"/><Hangup/>', "1"),
        ('<Pause length="-5"/><Hangup/>', "1"),
        ('<Pause length="500"/>', "500"),
        ('<Pause length="0"/>', "0"),
        ("", "0"),
        ('<Start><Stream url="wss://example.com"/></Start><Pay/><Echo/><Pause length="2"/>', "2"),
        ("<Leave/><Pause/>", "1"),
        ("<Refer><Sip>sip:a@example.com</Sip></Refer><Pause/>", "0"),
        ("<Reject/><Pause/>", "0"),
        ('<Connect><Stream url="wss://example.com"/></Connect>', "14400"),
        ("<Connect><Room>one</Room></Connect><Pause/>", "1"),
    ],
)
def test_a_call_lasts_as_long_as_its_instructions(phone: Phone, verbs: str, duration: str) -> None:
    sid = phone.call(verbs)
    phone.advance(20_000)
    assert (phone.record(sid)["status"], phone.record(sid)["duration"]) == ("completed", duration)


def test_the_transcript_has_language_voice_and_loops(phone: Phone) -> None:
    sid = phone.call('<Say language="de-DE" voice="Polly.Vicki" loop="2">Guten Tag</Say>')
    phone.advance(60)
    (said,) = [each for each in phone.api.transcript(sid) if each.event == "said"]
    assert said.details == {"language": "de-DE", "voice": "Polly.Vicki", "loop": "2"}


def test_a_verb_that_is_not_available_is_skipped_and_noted(phone: Phone) -> None:
    sid = phone.call("<Pay/><Connect><ConversationRelay/></Connect><Say>Go on.</Say>")
    phone.advance(60)
    assert [text.partition(",")[0] for text in phone.events(sid, "skipped")] == [
        "<Pay>",
        "<Connect><ConversationRelay>",
    ]
    assert phone.heard(sid) == ["Go on."]


# Gather


@pytest.mark.parametrize(
    ("attributes", "keys", "digits"),
    [
        ("", "12#", "12"),
        ("", "1*2", "1*2"),
        ('finishOnKey="*"', "1#2*", "1#2"),
        ('finishOnKey=""', "1#2*", "1#2*"),
        ('finishOnKey="ab0"', "120", "12"),
        ('numDigits="2"', "123", "12"),
        ('numDigits="1"', "7", "7"),
        ('timeout="2"', "1WW2WWWW3", "12"),
        ('actionOnEmptyResult="true"', "#", ""),
        ('actionOnEmptyResult="true"', "W", ""),
        ('input="dtmf speech"', "34#", "34"),
        ('input="telepathy"', "5#", "5"),
    ],
)
def test_gather_sends_the_digits_to_its_action(
    phone: Phone, application: Application, attributes: str, keys: str, digits: str
) -> None:
    url = application.says("/menu", MENU.format(attributes))
    application.says("/chosen", "<Say>Thanks.</Say>")
    sid = phone.call(Url=url)
    phone.advance(4)
    phone.api.press(sid, keys)
    phone.advance(60)
    (asked,) = application.requests("/chosen")
    assert asked.form["Digits"] == digits
    assert phone.heard(sid) == ["Press a key.", "Thanks."]


@pytest.mark.parametrize(
    ("attributes", "keys"),
    [("", "#"), ("", "W"), ('input="speech"', "1#"), ('finishOnKey="9"', "9")],
)
def test_gather_without_an_answer_continues_with_the_next_verb(
    phone: Phone, application: Application, attributes: str, keys: str
) -> None:
    sid = phone.call(Url=application.says("/menu", MENU.format(attributes)))
    phone.advance(6)
    phone.api.press(sid, keys)
    phone.advance(60)
    assert phone.heard(sid) == ["Press a key.", "Nothing."]
    assert not application.requests("/chosen")


@pytest.mark.parametrize("mode", ["speech", "dtmf speech"])
def test_gather_sends_speech_to_its_action(
    phone: Phone, application: Application, mode: str
) -> None:
    url = application.says("/menu", MENU.format(f'input="{mode}" method="GET"'))
    sid = phone.call(Url=url)
    phone.advance(6)
    phone.api.say(sid, "Sales, please")
    phone.advance(60)
    (asked,) = application.requests("/chosen")
    assert asked.method == "GET"
    assert (asked.parameters["SpeechResult"], asked.parameters["Confidence"]) == (
        "Sales, please",
        "0.9",
    )


def test_gather_waits_for_its_timeout_after_the_prompts(phone: Phone) -> None:
    sid = phone.call('<Gather timeout="7"><Say>Hello</Say><Pause length="2"/></Gather>')
    phone.advance(60)
    assert phone.record(sid)["duration"] == "10"


def test_a_key_interrupts_the_prompts_of_gather(phone: Phone, application: Application) -> None:
    prompts = '<Say>One.</Say><Pause length="3"/><Say>Two.</Say>'
    url = application.says("/menu", f'<Gather numDigits="1" action="/chosen">{prompts}</Gather>')
    application.says("/chosen", "<Say>Chosen.</Say>")
    sid = phone.call(Url=url)
    phone.advance(5)
    phone.api.press(sid, "1")
    phone.advance(60)
    assert phone.heard(sid) == ["One.", "Chosen."]


@pytest.mark.parametrize("verb", ["<Gather/>", "<Redirect/>", "<Record/>"])
def test_the_default_action_is_the_present_document(
    phone: Phone, application: Application, verb: str
) -> None:
    def document(_: Asked) -> Page:
        is_second = len(application.asked) > 1
        return Page(f"<Response>{'<Say>Again.</Say>' if is_second else verb}</Response>")

    application.pages["/menu"] = document
    sid = phone.call(Url=f"{application.url}/menu?a=1")
    phone.advance(4)
    phone.api.say(sid, "Hello") if "Record" in verb else phone.api.press(sid, "1#")
    phone.advance(60)
    assert [asked.url for asked in application.asked] == [f"{application.url}/menu?a=1"] * 2
    assert phone.heard(sid) == ["Again."]


def test_keys_that_are_pressed_before_gather_are_lost(
    phone: Phone, application: Application
) -> None:
    url = application.says("/menu", f'<Pause length="10"/>{MENU.format("")}')
    sid = phone.call(Url=url)
    phone.advance(5)
    phone.api.press(sid, "1#")
    phone.advance(60)
    assert phone.events(sid, "pressed") == ["1", "#"]
    assert not application.requests("/chosen")


# Record


def test_record_ends_after_silence_and_requests_its_action_and_callback(
    phone: Phone, application: Application
) -> None:
    verb = '<Record action="/saved" timeout="3" recordingStatusCallback="/recorded"/>'
    sid = phone.call(Url=application.says("/voice/start", verb))
    phone.advance(4)
    phone.api.say(sid, "Please call me back.")
    phone.advance(60)
    phone.api.wait_for_callbacks()
    (saved,), (recorded,) = application.requests("/saved"), application.requests("/recorded")
    assert saved.form["RecordingSid"] == recorded.form["RecordingSid"]
    assert saved.form["RecordingDuration"] == recorded.form["RecordingDuration"] == "5"
    assert saved.form["RecordingUrl"].endswith(saved.form["RecordingSid"])
    assert recorded.form["RecordingSource"] == "RecordVerb"
    assert (recorded.form["RecordingStatus"], recorded.form["CallSid"]) == ("completed", sid)


@pytest.mark.parametrize(
    ("attributes", "keys", "digits"),
    [("", "5", "5"), ('finishOnKey="#"', "5#", "#"), ('finishOnKey="#" maxLength="4"', "5", "")],
)
def test_a_key_or_the_maximum_length_ends_a_recording(
    phone: Phone, application: Application, attributes: str, keys: str, digits: str
) -> None:
    verb = f'<Record action="/saved" timeout="60" {attributes}/>'
    sid = phone.call(Url=application.says("/start", verb))
    phone.advance(4)
    phone.api.say(sid, "Hello")
    phone.advance(2)
    phone.api.press(sid, keys)
    phone.advance(2)
    (saved,) = application.requests("/saved")
    assert saved.form["Digits"] == digits


def test_silence_is_not_recorded(phone: Phone, application: Application) -> None:
    sid = phone.call(Url=application.says("/start", '<Record action="/saved"/><Say>Bye</Say>'))
    phone.advance(60)
    assert phone.heard(sid) == ["Bye"]
    assert not application.requests("/saved")


def test_a_message_is_kept_when_the_other_party_hangs_up(
    phone: Phone, application: Application
) -> None:
    verb = '<Record action="/saved" recordingStatusCallback="/recorded"/>'
    sid = phone.call(Url=application.says("/start", verb))
    phone.advance(4)
    phone.api.say(sid, "Call me.")
    phone.advance(2)
    phone.api.hang_up(sid)
    phone.api.wait_for_callbacks()
    (recorded,) = application.requests("/recorded")
    assert recorded.form["CallSid"] == sid
    (saved,) = application.requests("/saved")
    assert (saved.form["Digits"], saved.form["CallStatus"]) == ("hangup", "completed")


def test_the_transcript_has_the_request_after_a_hang_up(
    phone: Phone, application: Application
) -> None:
    sid = phone.call(Url=application.says("/start", f'<Dial action="/done">{CALLEE}</Dial>'))
    phone.advance(10)
    phone.api.hang_up(sid)
    last = phone.api.transcript(sid)[-1]
    assert (last.event, last.text) == ("fetched", f"{application.url}/done")
    assert last.details == {"method": "POST", "status": "404"}


def test_an_invalid_callback_url_is_noted_and_the_call_goes_on(
    phone: Phone, application: Application
) -> None:
    verb = '<Record action="/saved" recordingStatusCallback="http://[broken"/>'
    sid = phone.call(Url=application.says("/start", verb))
    application.says("/saved", "<Say>Saved.</Say>")
    phone.advance(4)
    phone.api.say(sid, "Hello")
    phone.advance(60)
    assert phone.error_codes(sid) == ["11100"]
    assert phone.heard(sid) == ["Saved."]


# Redirect, Refer and Reject


@pytest.mark.parametrize(("method", "expected"), [("", "POST"), ('method="get"', "GET")])
def test_redirect_continues_with_another_document(
    phone: Phone, application: Application, method: str, expected: str
) -> None:
    redirect = f"<Redirect {method}>../next?x=1&amp;y=2</Redirect><Say>Never</Say>"
    application.says("/next", "<Say>Next.</Say>")
    sid = phone.call(Url=application.says("/voice/start", redirect))
    phone.advance(60)
    assert phone.heard(sid) == ["Next."]
    assert application.asked[1].method == expected
    assert application.asked[1].url.startswith(f"{application.url}/next?x=1&y=2")


@pytest.mark.parametrize(
    "verbs", ["", '<Pause length="0"/>', '<Dial timeout="0">+12025550144</Dial>']
)
def test_redirects_that_take_no_time_end(
    phone: Phone, application: Application, verbs: str
) -> None:
    sid = phone.call(Url=application.says("/loop", f"{verbs}<Redirect/>"))
    phone.advance(60)
    assert phone.record(sid)["status"] == "completed"
    assert len(application.asked) <= 100


def test_refer_requests_its_action(phone: Phone, application: Application) -> None:
    refer = '<Refer action="/referred"><Sip>sip:a@example.com</Sip></Refer>'
    application.says("/referred", "<Say>Done.</Say>")
    sid = phone.call(Url=application.says("/start", refer))
    phone.advance(60)
    assert application.asked[1].form["ReferCallStatus"] == "completed"
    assert phone.events(sid, "referred") == ["sip:a@example.com"]
    assert phone.heard(sid) == ["Done."]


@pytest.mark.parametrize(
    ("verbs", "status", "duration"),
    [
        ("<Reject/>", "no-answer", None),
        ('<Reject reason="busy"/>', "busy", None),
        ('<Pause length="5"/><Reject reason="busy"/>', "busy", None),
        ("<Redirect>/reject</Redirect>", "busy", None),
        ("<Say>Hello</Say><Reject/>", "completed", "1"),
        ("<Hangup/>", "completed", "0"),
        ("<Pay/><Reject/>", "no-answer", None),
        ("", "completed", "0"),
        ('<Pause length="99"/><Say>Too late</Say>', "no-answer", None),
    ],
)
def test_an_inbound_call_can_be_rejected_before_it_is_answered(
    application: Application, verbs: str, status: str, duration: str | None
) -> None:
    application.says("/reject", '<Reject reason="busy"/>')
    script = Script(voice_url=application.says("/start", verbs))
    with switched_on(application, {OWN: script}) as phone:
        sid = phone.ring(OWN)
        phone.advance(100)
        record = phone.record(sid)
    assert (record["status"], record["duration"]) == (status, duration)
