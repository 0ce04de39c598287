import pytest

from .phone import Application, Phone


@pytest.mark.parametrize(
    ("verbs", "duration"),
    [
        ("<Hangup/>", "0"),
        ("<Say>Hello</Say><Hangup/>", "1"),
        ("<Say>It takes three seconds to say all of this.</Say>", "3"),
        ('<Say loop="3">Hello</Say>', "3"),
        ("<Play>https://example.com/hello.mp3</Play>", "5"),
        ('<Play digits="1w2WW3"/>', "3"),
        ('<Pause length="5"/><Pause/><Hangup/><Pause length="9"/>', "6"),
        ('<Pause length="soon"/><Hangup/>', "1"),
        ('<Pause length="500"/>', "500"),
        ("", "0"),
    ],
)
def test_a_call_lasts_as_long_as_its_instructions(phone: Phone, verbs: str, duration: str) -> None:
    sid = phone.call(verbs)
    phone.advance(1000)
    assert (phone.record(sid)["status"], phone.record(sid)["duration"]) == ("completed", duration)


def test_digits_choose_what_happens_next(phone: Phone, application: Application) -> None:
    menu = '<Gather numDigits="1" action="chosen"><Say>Press 1 for sales.</Say></Gather>'
    url = application.says("/voice/menu", menu)
    application.says("/voice/chosen", "<Say>Sales.</Say>")
    sid = phone.call(Url=url)
    phone.advance(5)
    phone.api.press(sid, "1")
    phone.advance(60)
    assert phone.heard(sid) == ["Press 1 for sales.", "Sales."]
    first, second = application.asked
    assert first.form["CallStatus"] == "in-progress"
    assert second.path == "/voice/chosen"
    assert second.form["Digits"] == "1"


def test_what_was_to_happen_after_the_end_of_a_call_does_not(phone: Phone) -> None:
    sid = phone.call("<Pause length='9'/>")
    phone.advance(5)
    phone.api.press(sid, "WWWW1")
    phone.update(sid, Status="completed")
    phone.advance(0)
    story = phone.story(sid)
    phone.http.delete(f"Calls/{sid}.json")
    phone.advance(60)
    assert phone.story(sid) == story
