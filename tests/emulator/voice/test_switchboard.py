"""Calls from outside, restarts, threads and resets."""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from calls_mcp.emulator import ManualClock, Script
from calls_mcp.emulator.api_errors import ApiError

from .phone import CALLEE, Application, Page, Phone, switched_on

OWN, ALICE = "+12025550177", "+12025550101"
EVENTS = "initiated", "ringing", "answered", "completed"


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "calls.sqlite")


def test_the_control_api_calls_a_number_of_the_account(application: Application) -> None:
    menu = '<Gather numDigits="1" action="/chosen"><Say>Press 1.</Say></Gather>'
    own = Script(voice_url=application.says("/own", menu), voice_method="GET")
    application.says("/chosen", "<Say>Thanks.</Say>")
    body = {
        "to": OWN,
        "from": CALLEE,
        "script": {"reactions": [{"hears": "press", "press": "1"}]},
    }
    with switched_on(application, {OWN: own}) as phone:
        response = phone.http.post(f"{phone.api.base_url}/emulator/calls", json=body)
        sid = response.json()["sid"]
        phone.advance(60)
        record = phone.record(sid)
        assert phone.heard(sid) == ["Press 1.", "Thanks."]
    assert response.status_code == 201
    assert (record["direction"], record["from"], record["to"]) == ("inbound", CALLEE, OWN)
    start, chosen = application.asked
    assert (start.method, start.parameters["CallStatus"]) == ("GET", "ringing")
    assert start.parameters["Direction"] == "inbound"
    assert chosen.form["CallStatus"] == "in-progress"


def test_a_number_without_instructions_cannot_be_called_from_outside(phone: Phone) -> None:
    with pytest.raises(ApiError, match="voice_url"):
        phone.ring(OWN)


@pytest.mark.parametrize(
    "verbs",
    [
        '<Pause length="500"/>',
        f"<Dial>{ALICE}</Dial>",
        "<Enqueue>support</Enqueue>",
        "<Dial><Conference>room</Conference></Dial>",
        '<Dial><Number url="/whisper">+12025550102</Number></Dial>',
        f"<Dial>{OWN}</Dial>",
    ],
)
def test_calls_end_even_if_the_emulator_restarts(
    application: Application, database: str, verbs: str
) -> None:
    clock = ManualClock()
    own = Script(voice_url=application.says("/own", '<Pause length="500"/>'))
    application.says("/whisper", '<Pause length="9"/>')
    with switched_on(application, {OWN: own}, database=database, clock=clock) as phone:
        phone.call(Url=application.says("/start", verbs))
        phone.ring(OWN)
        phone.advance(8)
        assert any(call.live for call in phone.api.calls)
        clock.advance(8)
    with switched_on(application, database=database, clock=clock) as phone:
        phone.advance(5 * 3600)
        assert [call for call in phone.api.calls if call.live] == []


def test_a_ringing_call_from_outside_ends_even_if_the_emulator_restarts(
    application: Application, database: str
) -> None:
    clock = ManualClock()
    own = Script(voice_url=application.says("/own", '<Pause length="50"/>'))
    with switched_on(application, {OWN: own}, database=database, clock=clock) as phone:
        phone.ring(OWN)
    with switched_on(application, database=database, clock=clock) as phone:
        phone.advance(5 * 3600)
        assert [call.status for call in phone.api.calls] == ["no-answer"]


def test_threads_place_calls_that_do_not_disturb_each_other(
    phone: Phone, application: Application
) -> None:
    menu = '<Gather numDigits="1" action="/chosen"><Say>Press 1.</Say></Gather>'
    url = application.says("/menu", menu)
    application.says("/chosen", "<Say>Thanks.</Say>")

    def call(_: int) -> list[str]:
        sid = phone.call(Url=url)
        while phone.record(sid)["status"] != "in-progress":
            phone.advance(1)
        phone.api.press(sid, "1")
        while phone.record(sid)["status"] == "in-progress":
            phone.advance(1)
        return phone.heard(sid)

    with ThreadPoolExecutor(2) as pool:
        heard = list(pool.map(call, range(4)))
    assert {each[0] for each in heard} == {"Press 1."}


def test_a_reset_forgets_calls_that_are_being_recorded(
    phone: Phone, application: Application
) -> None:
    record = '<Record recordingStatusCallback="/recorded" action="/saved"/>'
    sid = phone.call(Url=application.says("/start", record))
    phone.call(f"<Dial>{ALICE}</Dial>")
    phone.advance(5)
    phone.api.say(sid, "Hello")
    phone.advance(3)
    phone.api.reset()
    assert phone.api.calls == ()
    assert phone.api.transcript(sid) == ()
    phone.advance(100)
    assert phone.http.get("Recordings.json").json()["recordings"] == []
    assert [asked.path for asked in application.asked] == ["/start"]


def test_an_emulator_can_stop_while_a_call_is_recorded(application: Application) -> None:
    with switched_on(application) as phone:
        sid = phone.call(Url=application.says("/start", "<Record/>"))
        phone.advance(5)
        phone.api.say(sid, "Hello")
        phone.advance(2)
    assert [asked.path for asked in application.asked] == ["/start"]


def test_documents_and_callbacks_are_sent_in_the_order_of_events(
    phone: Phone, application: Application
) -> None:
    for path in ("/call", "/child"):
        application.pages[path] = Page()
    events = f'statusCallback="/child" statusCallbackEvent="{" ".join(EVENTS)}"'
    verb = f'<Dial action="/done"><Number {events}>{ALICE}</Number></Dial>'
    application.says("/done", '<Pause length="1"/>')
    reports = {"StatusCallback": f"{application.url}/call", "StatusCallbackEvent": "initiated"}
    phone.call(Url=application.says("/start", verb), **reports)
    phone.advance(100)
    asked = [each.path for each in application.asked]
    assert asked[:5] == ["/call", "/start", "/child", "/child", "/child"]
    assert sorted(asked[5:]) == ["/child", "/done"]  # at the same moment


def test_the_callbacks_of_many_calls_have_arrived_in_order_after_an_advance(
    phone: Phone, application: Application
) -> None:
    for number in range(30):
        application.pages[f"/{number}"] = Page()
        url = f"{application.url}/{number}"
        phone.call("<Pause/>", StatusCallback=url, StatusCallbackEvent=" ".join(EVENTS))
    phone.advance(100)
    moments = [parsedate_to_datetime(each.form["Timestamp"]) for each in application.asked]
    assert len(moments) == 30 * len(EVENTS)
    assert moments == sorted(moments)


def test_a_receiver_that_does_not_respond_delays_the_clock_until_its_timeout(phone: Phone) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/#tt=100"
        phone.call("<Pause/>", StatusCallback=url, StatusCallbackEvent=" ".join(EVENTS))
        phone.advance(100)
        callbacks = phone.api.emulator.calls.callbacks.latest(9)
    assert [each.outcome for each in callbacks] == ["no response"] * len(EVENTS)


@pytest.mark.parametrize("dials", [False, True])
@pytest.mark.parametrize(
    ("verb", "status"), [('<Reject reason="busy"/>', "busy"), ("<Reject/>", "no-answer")]
)
def test_an_application_can_reject_the_calls_of_the_account(
    application: Application, verb: str, status: str, *, dials: bool
) -> None:
    own = Script(voice_url=application.says("/own", verb))
    application.says("/done", "<Hangup/>")
    with switched_on(application, {OWN: own}) as phone:
        if dials:
            phone.call(Url=application.says("/start", f'<Dial action="/done">{OWN}</Dial>'))
        else:
            phone.call("<Say>Hello</Say>", to=OWN)
        phone.advance(100)
        both = [call for call in phone.api.calls if call.to == OWN]
        assert [(call.status, call.duration) for call in both] == [(status, None)] * 2
        assert all(phone.events(call.sid, "answered") == [] for call in both)
    (asked,) = application.requests("/own")
    assert (asked.form["CallStatus"], asked.form["Direction"]) == ("ringing", "inbound")
    assert [done.form["DialCallStatus"] for done in application.requests("/done")] == (
        [status] if dials else []
    )


def test_both_ends_of_a_call_are_answered_when_the_application_answers(
    application: Application,
) -> None:
    own = Script(voice_url=application.says("/own", '<Say>Welcome.</Say><Pause length="7"/>'))
    with switched_on(application, {OWN: own}) as phone:
        sid = phone.call('<Say>Hello</Say><Pause length="60"/>', to=OWN)
        phone.advance(100)
        inbound = next(call for call in phone.api.calls if call.direction == "inbound")
        assert phone.story(sid)[:2] == ["0 answered by a human", "0 said Hello"]
        assert [each for each in phone.story(inbound.sid) if "fetched" not in each][:2] == [
            "0 answered by the application",
            "0 said Welcome.",
        ]
        assert phone.record(sid)["duration"] == phone.record(inbound.sid)["duration"] == "8"


def test_an_application_is_not_asked_if_the_script_of_its_number_does_not_answer(
    application: Application,
) -> None:
    own = Script(end_as="busy", voice_url=application.says("/own", "<Say>Hello</Say>"))
    with switched_on(application, {OWN: own}) as phone:
        sid = phone.call("<Say>Hello</Say>", to=OWN)
        phone.advance(100)
        assert phone.record(sid)["status"] == "busy"
    assert application.asked == []


def test_a_call_from_outside_is_answered_before_anything_is_said(application: Application) -> None:
    own = Script(voice_url=application.says("/own", f"<Say>Welcome.</Say><Dial>{ALICE}</Dial>"))
    with switched_on(application, {OWN: own}) as phone:
        sid = phone.ring(OWN)
        phone.advance(100)
        story = [each for each in phone.story(sid) if "fetched" not in each]
    assert story[:2] == ["0 answered by the application", "0 said Welcome."]


def test_calls_in_progress_end_when_their_emulator_stops(
    application: Application, database: str
) -> None:
    clock = ManualClock()
    with switched_on(application, database=database, clock=clock) as phone:
        sid = phone.call('<Pause length="500"/>')
        phone.advance(10)
    with switched_on(application, database=database, clock=clock) as phone:
        assert phone.record(sid)["status"] == "completed"
        assert phone.story(sid)[-1].endswith("ended completed")
