"""Changes of a call while its instructions are executed."""

import pytest

from calls_mcp.emulator import Script

from .phone import Application, Asked, Page, Phone, switched_on

ALICE, SILENT, OWN = "+12025550101", "+15005550202", "+12025550177"
INSTEAD = "<Response><Say>Instead.</Say></Response>"


@pytest.mark.parametrize(
    "verbs",
    [
        "<Say>This takes quite a while to say, long enough to be interrupted by someone.</Say>",
        '<Gather timeout="60" action="/never"/>',
        '<Pause length="60"/>',
        "<Record/>",
        '<Connect><Stream url="wss://example.com"/></Connect>',
        f"<Dial>{SILENT}</Dial>",
        f"<Dial>{ALICE}</Dial>",
        "<Dial><Conference>room</Conference></Dial>",
        "<Dial><Queue>support</Queue></Dial>",
        "<Enqueue>support</Enqueue>",
        '<Enqueue waitUrl="/wait">support</Enqueue>',
    ],
)
def test_an_update_redirects_a_call_whatever_it_does(
    phone: Phone, application: Application, verbs: str
) -> None:
    application.says("/wait", '<Gather timeout="60" action="/never"/>')
    sid = phone.call(Url=application.says("/start", f"{verbs}<Say>Too late.</Say>"))
    phone.advance(10 if ALICE in verbs else 5)
    phone.update(sid, Twiml=INSTEAD)
    phone.advance(5)
    assert phone.heard(sid)[-1] == "Instead."
    assert phone.record(sid)["status"] == "completed"
    assert all(child["status"] != "in-progress" for child in phone.children(sid))
    assert not application.requests("/never")


def test_an_update_replaces_instructions_that_are_being_fetched(
    phone: Phone, application: Application
) -> None:
    def start(asked: Asked) -> Page:
        phone.update(asked.form["CallSid"], Twiml=INSTEAD)
        return Page("<Response><Say>Too late.</Say></Response>")

    application.pages["/start"] = start
    sid = phone.call(Url=f"{application.url}/start")
    phone.advance(60)
    assert phone.heard(sid) == ["Instead."]


def test_an_update_before_the_answer_changes_the_instructions(
    phone: Phone, application: Application
) -> None:
    sid = phone.call("<Say>Original.</Say>")
    phone.advance(2)
    phone.update(sid, Url=application.says("/new", "<Say>New.</Say>"), Method="GET")
    phone.advance(60)
    assert phone.heard(sid) == ["New."]
    assert application.asked[0].method == "GET"


def test_an_update_can_bring_another_fallback(phone: Phone, application: Application) -> None:
    fallback = application.says("/fallback", "<Say>Plan B.</Say>")
    sid = phone.call('<Pause length="60"/>')
    phone.advance(5)
    phone.update(sid, Url=f"{application.url}/missing", FallbackUrl=fallback)
    phone.advance(60)
    assert phone.heard(sid) == ["Plan B."]


@pytest.mark.parametrize("whisper", ["", '<Pause length="60"/>'])
def test_a_dialed_call_that_is_redirected_leaves_and_goes_on(
    phone: Phone, application: Application, whisper: str
) -> None:
    url = f'url="{application.says("/whisper", whisper)}"' if whisper else ""
    dial = f"<Dial><Number {url}>{ALICE}</Number></Dial><Say>Left alone.</Say>"
    sid = phone.call(Url=application.says("/start", dial))
    phone.advance(10)
    (child,) = phone.children(sid)
    phone.update(child["sid"] or "", Twiml=INSTEAD.replace("</Say>", '</Say><Pause length="9"/>'))
    phone.advance(2)
    assert phone.heard(sid) == ["Left alone."]
    assert phone.heard(child["sid"] or "") == ["Instead."]
    assert phone.record(child["sid"] or "")["status"] == "in-progress"
    phone.advance(60)
    assert phone.record(child["sid"] or "")["status"] == "completed"


def test_the_end_of_a_call_ends_those_that_it_dialed(
    phone: Phone, application: Application
) -> None:
    for to, status in ((SILENT, "canceled"), (ALICE, "completed")):
        sid = phone.call(Url=application.says("/start", f"<Dial>{to}</Dial>"))
        phone.advance(10)
        phone.update(sid, Status="completed")
        phone.advance(0)
        assert phone.children(sid)[0]["status"] == status


def test_a_time_limit_ends_the_call(phone: Phone) -> None:
    sid = phone.call('<Gather timeout="600"/>', TimeLimit="30")
    phone.advance(100)
    assert phone.record(sid)["duration"] == "30"
    other = phone.call('<Pause length="600"/>')
    phone.advance(10)
    phone.update(other, TimeLimit="20")
    phone.advance(100)
    assert phone.record(other)["duration"] == "20"


def test_nothing_follows_the_end_of_a_call(phone: Phone, application: Application) -> None:
    verb = '<Gather action="/never" actionOnEmptyResult="true"/><Say>Nobody hears this.</Say>'
    sid = phone.call(Url=application.says("/start", verb))
    phone.advance(5)
    phone.update(sid, Status="completed")
    phone.advance(60)
    assert phone.heard(sid) == []
    assert phone.story(sid)[-1].endswith("ended completed")
    assert not application.requests("/never")


def test_digits_that_a_call_sends_are_heard_by_the_application_it_calls(
    application: Application,
) -> None:
    menu = '<Gather numDigits="2" action="/heard"><Say>Your number?</Say></Gather>'
    own = Script(voice_url=application.says("/own", menu))
    application.says("/heard", "<Say>Welcome.</Say>")
    with switched_on(application, {OWN: own}) as phone:
        sid = phone.call('<Pause length="2"/><Play digits="2"/><Pause/>', to=OWN, SendDigits="WW1")
        phone.advance(60)
        assert phone.record(sid)["status"] == "completed"
        (inbound,) = [call for call in phone.api.calls if call.direction == "inbound"]
        assert phone.heard(inbound.sid) == ["Your number?", "Welcome."]
    (heard,) = application.requests("/heard")
    assert (heard.form["Digits"], heard.form["Direction"]) == ("12", "inbound")


@pytest.mark.parametrize("talk_for", [None, 5])
def test_both_records_of_a_call_between_numbers_of_the_account_end_together(
    application: Application, talk_for: float | None
) -> None:
    verbs = '<Say>Hello</Say><Pause length="59"/>'
    own = Script(voice_url=application.says("/own", verbs), talk_for=talk_for)
    with switched_on(application, {OWN: own}) as phone:
        sid = phone.call(f"<Dial>{OWN}</Dial>")
        phone.advance(100)
        durations = [call.duration for call in phone.api.calls if call.sid != sid]
    assert durations == [talk_for or 60] * 2


def test_what_was_scheduled_does_not_happen_after_the_end_of_a_call(phone: Phone) -> None:
    sid = phone.call("<Pause length='9'/>")
    phone.advance(5)
    phone.api.press(sid, "WWWW1")
    phone.update(sid, Status="completed")
    phone.advance(0)
    story = phone.story(sid)
    phone.http.delete(f"Calls/{sid}.json")
    phone.advance(60)
    assert phone.story(sid) == story
