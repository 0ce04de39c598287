"""The verbs of several calls: Dial with its nouns, conferences and queues."""

from collections.abc import Mapping

import pytest

from calls_mcp.emulator import OWN_NUMBERS, Script
from calls_mcp.emulator.scenario import Reaction

from .phone import CALLEE, Application, Asked, Page, Phone, switched_on

ALICE, BOB, CAROL = "+12025550101", "+12025550102", "+12025550103"
BUSY, SILENT, FAILED, NOT_VALID = "+15005550201", "+15005550202", "+15005550203", "+15005550001"
OWN = "+12025550177"


def dialed(
    phone: Phone, application: Application, content: str, attributes: str = ""
) -> tuple[str, Mapping[str, str]]:
    """Call someone, dial these, and return the call and the parameters of the action."""
    verb = f'<Dial action="/done" {attributes}>{content}</Dial><Say>Not this.</Say>'
    application.says("/done", "<Hangup/>")
    sid = phone.call(Url=application.says("/start", verb))
    phone.advance(300)
    (done,) = application.requests("/done")
    return sid, done.form


@pytest.mark.parametrize(
    ("noun", "to"),
    [
        (ALICE, ALICE),
        (f"<Number>{ALICE}</Number>", ALICE),
        ("<Client>alice</Client>", "client:alice"),
        ("<Client><Identity>alice</Identity></Client>", "client:alice"),
        (
            '<Client>\n<Identity>alice</Identity><Parameter name="a" value="b"/></Client>',
            "client:alice",
        ),
        ("<Sip>sip:alice@example.com</Sip>", "sip:alice@example.com"),
    ],
)
def test_dial_calls_the_party_that_a_noun_names(
    phone: Phone, application: Application, noun: str, to: str
) -> None:
    sid, done = dialed(phone, application, noun)
    (child,) = phone.children(sid)
    assert (child["to"], child["direction"], child["status"]) == (to, "outbound-dial", "completed")
    assert child["parent_call_sid"] == sid
    assert done["DialCallStatus"] == "completed"
    assert done["DialCallSid"] == child["sid"]
    assert done["DialCallDuration"] == child["duration"] == "20"
    assert phone.heard(sid) == []


@pytest.mark.parametrize(
    ("to", "attributes", "status"),
    [
        (BUSY, "", "busy"),
        (SILENT, 'timeout="5"', "no-answer"),
        (ALICE, 'timeout="1"', "no-answer"),
        (FAILED, "", "failed"),
        (NOT_VALID, "", "failed"),
        ("nobody", "", "failed"),
    ],
)
def test_the_action_learns_why_nobody_answered(
    phone: Phone, application: Application, to: str, attributes: str, status: str
) -> None:
    sid, done = dialed(phone, application, to, attributes)
    (child,) = phone.children(sid)
    assert done["DialCallStatus"] == child["status"] == status
    assert done["DialCallSid"] == child["sid"]
    assert "DialCallDuration" not in done


def test_a_star_cancels_the_dialed_call(phone: Phone, application: Application) -> None:
    verb = f'<Dial action="/done" hangupOnStar="true">{SILENT}</Dial>'
    sid = phone.call(Url=application.says("/start", verb))
    phone.advance(10)
    phone.api.press(sid, "1*")
    phone.advance(1)
    assert application.requests("/done")[0].form["DialCallStatus"] == "canceled"
    assert phone.children(sid)[0]["status"] == "canceled"


@pytest.mark.parametrize(("on_star", "duration"), [("true", "5"), ("false", "20")])
def test_a_star_ends_the_talk_if_dial_says_so(
    phone: Phone, application: Application, on_star: str, duration: str
) -> None:
    verb = f'<Dial action="/done" hangupOnStar="{on_star}">{ALICE}</Dial>'
    sid = phone.call(Url=application.says("/start", verb))
    phone.advance(11)  # the callee answers after 3 s, and Alice 3 s later
    phone.api.press(sid, "*")
    phone.advance(100)
    assert application.requests("/done")[0].form["DialCallDuration"] == duration


def test_the_first_of_several_parties_to_answer_is_connected(application: Application) -> None:
    scripts = {ALICE: Script(answer_after=9), BOB: Script(answer_after=5)}
    numbers = "".join(f"<Number>{each}</Number>" for each in (ALICE, BUSY, BOB, SILENT))
    with switched_on(application, scripts) as phone:
        sid, done = dialed(phone, application, numbers)
        children = {each["to"]: each for each in phone.children(sid)}
    assert done["DialCallSid"] == children[BOB]["sid"]
    statuses = {to: child["status"] for to, child in children.items()}
    assert statuses == {ALICE: "canceled", BUSY: "busy", BOB: "completed", SILENT: "canceled"}


def test_of_several_parties_with_the_same_script_the_first_answers(
    phone: Phone, application: Application
) -> None:
    numbers = "".join(f"<Number>{number}</Number>" for number in (ALICE, BOB, CAROL))
    sid, done = dialed(phone, application, numbers)
    assert done["DialCallStatus"] == "completed"
    statuses = {call["to"]: call["status"] for call in phone.children(sid)}
    assert statuses == {ALICE: "completed", BOB: "canceled", CAROL: "canceled"}


def test_sequential_dials_one_party_after_the_other(phone: Phone, application: Application) -> None:
    numbers = "".join(f"<Number>{each}</Number>" for each in (BUSY, SILENT, ALICE, BOB))
    sid, done = dialed(phone, application, numbers, 'sequential="true" timeout="5"')
    statuses = [(each["to"], each["status"]) for each in phone.children(sid)]
    assert statuses == [(BUSY, "busy"), (SILENT, "no-answer"), (ALICE, "completed")]
    assert done["DialCallStatus"] == "completed"


def test_without_an_action_the_next_verb_follows(phone: Phone) -> None:
    sid = phone.call(f"<Dial>{BUSY}</Dial><Say>Busy.</Say><Dial>{ALICE}</Dial><Say>Over.</Say>")
    phone.advance(100)
    assert phone.heard(sid) == ["Busy.", "Over."]


def test_a_noun_that_is_not_available_is_skipped_and_noted(
    phone: Phone, application: Application
) -> None:
    nouns = f"<Sim>DE123</Sim><Number>{ALICE}</Number><WhatsApp>{BOB}</WhatsApp>"
    sid, _ = dialed(phone, application, nouns)
    assert [each["to"] for each in phone.children(sid)] == [ALICE]
    skipped = [text.partition(",")[0] for text in phone.events(sid, "skipped")]
    assert skipped == ["<Dial><Sim>", "<Dial><WhatsApp>"]


def test_dial_without_anyone_is_skipped(phone: Phone) -> None:
    sid = phone.call("<Dial/><Say>Go on.</Say>")
    phone.advance(100)
    assert phone.heard(sid) == ["Go on."]


@pytest.mark.parametrize(
    ("content", "caller_id", "expected"),
    [
        (ALICE, "", OWN_NUMBERS[0]),
        (ALICE, OWN_NUMBERS[1], OWN_NUMBERS[1]),
        (ALICE, CALLEE, CALLEE),
        ("<Client>alice</Client>", "client:bob", "client:bob"),
    ],
)
def test_a_dialed_call_has_the_caller_id_that_dial_gives(
    phone: Phone, application: Application, content: str, caller_id: str, expected: str
) -> None:
    sid, _ = dialed(phone, application, content, f'callerId="{caller_id}"')
    assert phone.children(sid)[0]["from"] == expected


@pytest.mark.parametrize("caller_id", [BOB, "client:bob", "Bob"])
def test_a_number_is_not_dialed_with_a_foreign_caller_id(
    phone: Phone, application: Application, caller_id: str
) -> None:
    sid, done = dialed(phone, application, ALICE, f'callerId="{caller_id}"')
    assert phone.children(sid) == []
    assert phone.error_codes(sid) == ["13214"]
    assert done["DialCallStatus"] == "failed"


def test_the_time_limit_ends_the_talk(application: Application) -> None:
    with switched_on(application, {ALICE: Script(talk_for=100)}) as phone:
        sid, done = dialed(phone, application, ALICE, 'timeLimit="7"')
        assert phone.children(sid)[0]["duration"] == "7"
    assert done["DialCallDuration"] == "7"


@pytest.mark.parametrize(
    ("record", "channels"),
    [
        ("record-from-answer", "1"),
        ("record-from-ringing", "1"),
        ("true", "1"),
        ("record-from-answer-dual", "2"),
        ("record-from-ringing-dual", "2"),
        ("do-not-record", None),
        ("", None),
    ],
)
def test_the_talk_is_recorded(
    phone: Phone, application: Application, record: str, channels: str | None
) -> None:
    attributes = f'record="{record}" recordingStatusCallback="/recorded"'
    _, done = dialed(phone, application, ALICE, attributes)
    phone.api.wait_for_callbacks()
    recorded = application.requests("/recorded")
    assert [each.form["RecordingChannels"] for each in recorded] == ([channels] if channels else [])
    assert ("RecordingUrl" in done) == (channels is not None)


def test_the_events_of_a_dialed_call_are_reported(phone: Phone, application: Application) -> None:
    events = "initiated ringing answered completed"
    noun = f'<Number statusCallback="../status" statusCallbackEvent="{events}">{ALICE}</Number>'
    sid = phone.call(Url=application.says("/voice/start", f"<Dial>{noun}</Dial>"))
    phone.advance(100)
    phone.api.wait_for_callbacks()
    received = application.requests("/status")
    assert [each.form["CallStatus"] for each in received] == [
        "initiated",
        "ringing",
        "in-progress",
        "completed",
    ]
    (child,) = phone.children(sid)
    assert {each.form["CallSid"] for each in received} == {child["sid"]}
    assert {each.form["ParentCallSid"] for each in received} == {sid}


# What the dialed party hears first


def test_a_whisper_is_heard_by_the_dialed_party_before_the_talk(
    phone: Phone, application: Application
) -> None:
    application.says("/voice/whisper", "<Say>A call from sales.</Say><Dial>+12025550199</Dial>")
    noun = f'<Number url="whisper" method="GET">{ALICE}</Number>'
    sid = phone.call(Url=application.says("/voice/start", f'<Dial action="/done">{noun}</Dial>'))
    phone.advance(100)
    (child,) = phone.children(sid)
    assert phone.heard(child["sid"] or "") == ["A call from sales."]
    (asked,) = application.requests("/voice/whisper")
    assert (asked.method, asked.parameters["CallSid"]) == ("GET", child["sid"])
    assert application.requests("/done")[0].form["DialCallDuration"] == "19"
    assert application.requests("/done")[0].form["DialBridged"] == "true"


@pytest.mark.parametrize(("to", "seconds"), [(ALICE, "60"), (BOB, "20")])
def test_a_dialed_party_talks_until_20_seconds_after_its_last_reaction(
    application: Application, to: str, seconds: str
) -> None:
    scripts = {ALICE: Script(reactions=(Reaction(at=40, say="Bye."),))}
    with switched_on(application, scripts) as phone:
        _, done = dialed(phone, application, to)
    assert done["DialCallDuration"] == seconds


def test_a_whisper_can_last_longer_than_the_ringing(phone: Phone, application: Application) -> None:
    whisper = application.says("/whisper", "<Pause length='10'/>")
    noun = f'<Number url="{whisper}">{ALICE}</Number>'
    _, done = dialed(phone, application, noun, 'timeout="5"')
    assert done["DialCallStatus"] == "completed"


def test_a_whisper_that_hangs_up_declines_the_call(phone: Phone, application: Application) -> None:
    screen = '<Gather numDigits="1" action="/accepted"><Say>Press 1.</Say></Gather><Hangup/>'
    noun = f'<Number url="{application.says("/screen", screen)}">{ALICE}</Number>'
    sid, done = dialed(phone, application, noun)
    assert (done["DialCallStatus"], done["DialBridged"]) == ("no-answer", "false")
    assert phone.events(sid, "connected") == []


def test_the_next_party_is_dialed_after_a_whisper_that_hangs_up(
    phone: Phone, application: Application
) -> None:
    screened = f'<Number url="{application.says("/screen", "<Hangup/>")}">{ALICE}</Number>'
    nouns = f"{screened}<Number>{BOB}</Number>"
    sid, done = dialed(phone, application, nouns, 'sequential="true"')
    assert [child["to"] for child in phone.children(sid)] == [ALICE, BOB]
    assert (done["DialCallStatus"], done["DialBridged"]) == ("completed", "true")


def test_send_digits_are_pressed_after_the_answer(application: Application) -> None:
    gather = '<Gather action="/heard" timeout="9"><Say>Extension?</Say></Gather>'
    own = Script(voice_url=application.says("/own", gather))
    application.says("/heard", '<Pause length="5"/>')
    with switched_on(application, {OWN: own}) as phone:
        sid, done = dialed(phone, application, f'<Number sendDigits="WW12#">{OWN}</Number>')
        (child,) = phone.children(sid)
        assert phone.events(child["sid"] or "", "pressed") == ["WW12#"]
    assert application.requests("/heard")[0].form["Digits"] == "12"
    assert done["DialCallStatus"] == "completed"


def test_keys_that_do_not_exist_are_ignored(application: Application) -> None:
    own = Script(voice_url=application.says("/own", '<Pause length="9"/>'))
    with switched_on(application, {OWN: own}) as phone:
        sid, _ = dialed(phone, application, f'<Number sendDigits="hello">{OWN}</Number>')
        assert phone.record(sid)["status"] == "completed"


# Conferences


def joined(phone: Phone, application: Application, attributes: str = "") -> str:
    verb = f'<Dial action="/left"><Conference {attributes}>Room</Conference></Dial>'
    sid = phone.call(Url=application.says(f"/room{len(application.pages)}", verb))
    phone.advance(5)
    return sid


def test_two_people_meet_in_a_conference(phone: Phone, application: Application) -> None:
    first, second = joined(phone, application), joined(phone, application)
    joins = [
        each.details["participants"]
        for sid in (first, second)
        for each in phone.api.transcript(sid)
        if each.event == "joined"
    ]
    assert joins == ["1", "2"]
    phone.api.hang_up(second)
    phone.advance(10)
    assert phone.record(first)["status"] == "in-progress"


def test_end_conference_on_exit_ends_it_for_all(phone: Phone, application: Application) -> None:
    first = joined(phone, application)
    host = joined(phone, application, 'endConferenceOnExit="true"')
    phone.api.hang_up(host)
    phone.advance(5)
    left = [each.form for each in application.requests("/left") if each.form["CallSid"] == first]
    assert [each["DialCallStatus"] for each in left] == ["answered"]


def test_a_full_conference_accepts_nobody_else(phone: Phone, application: Application) -> None:
    for _ in range(2):
        joined(phone, application, 'maxParticipants="2"')
    third = joined(phone, application, 'maxParticipants="2"')
    assert application.requests("/left")[0].form["CallSid"] == third
    assert application.requests("/left")[0].form["DialCallStatus"] == "failed"


def test_a_place_in_a_conference_becomes_free(phone: Phone, application: Application) -> None:
    joined(phone, application, 'maxParticipants="2"')
    second = joined(phone, application, 'maxParticipants="2"')
    phone.api.hang_up(second)
    third = joined(phone, application, 'maxParticipants="2"')
    assert "joined" in {each.event for each in phone.api.transcript(third)}


# Queues


def queued(phone: Phone, application: Application, attributes: str = "") -> str:
    verb = f'<Enqueue action="/left" {attributes}>support</Enqueue><Say>After the queue.</Say>'
    sid = phone.call(Url=application.says("/enqueue", verb))
    phone.advance(5)
    return sid


def test_the_first_call_in_a_queue_is_served(phone: Phone, application: Application) -> None:
    application.says("/wait", "<Say>Please wait.</Say>")
    first = queued(phone, application, 'waitUrl="/wait" waitUrlMethod="GET"')
    second = queued(phone, application)
    serve = '<Dial action="/served"><Queue>support</Queue></Dial>'
    agent = phone.call(Url=application.says("/serve", serve))
    phone.advance(6)
    assert phone.events(first, "connected")
    assert phone.events(agent, "connected")
    assert not phone.events(second, "connected")
    phone.api.hang_up(agent)
    phone.advance(1)
    (left,) = application.requests("/left")
    assert (left.form["CallSid"], left.form["QueueResult"]) == (first, "bridged")
    assert int(left.form["QueueTime"]) > 5
    (wait, *_) = application.requests("/wait")
    assert wait.method == "GET"
    assert wait.parameters["QueuePosition"] == "1"
    assert wait.parameters["QueueSid"] == left.form["QueueSid"]


def test_the_agent_learns_that_the_queued_call_has_ended(
    phone: Phone, application: Application
) -> None:
    serve = '<Dial action="/served"><Queue>support</Queue></Dial>'
    phone.call(Url=application.says("/serve", serve))
    phone.advance(5)
    caller = queued(phone, application)
    phone.api.hang_up(caller)
    phone.advance(1)
    (served,) = application.requests("/served")
    assert (served.form["DialCallStatus"], served.form["DialCallSid"]) == ("completed", caller)


def test_a_call_that_ends_when_it_is_served_does_not_hold_the_agent(
    application: Application,
) -> None:
    with switched_on(application, {CALLEE: Script(talk_for=10)}) as phone:
        queued(phone, application)
        pause = '<Pause length="7"/><Dial action="/served"><Queue>support</Queue></Dial>'
        phone.call(Url=application.says("/serve", pause), to=ALICE)
        phone.advance(60)
        assert len(application.requests("/served")) == 1


def test_an_empty_queue_is_not_answered(phone: Phone, application: Application) -> None:
    _, done = dialed(phone, application, "<Queue>support</Queue>", 'timeout="5"')
    assert done["DialCallStatus"] == "no-answer"


def test_the_waiting_document_is_repeated(phone: Phone, application: Application) -> None:
    application.says("/wait", "<Play>/music.mp3</Play><Dial>+12025550199</Dial>")
    sid = queued(phone, application, 'waitUrl="/wait"')
    phone.advance(20)
    assert len(application.requests("/wait")) == 5
    assert phone.children(sid) == []


def test_the_waiting_document_learns_of_the_place_in_the_queue(
    phone: Phone, application: Application
) -> None:
    application.says("/wait", "<Pause length='10'/>")
    queued(phone, application, 'waitUrl="/wait"')
    second = queued(phone, application, 'waitUrl="/wait"')
    phone.call("<Dial><Queue>support</Queue></Dial>", to=BOB)
    phone.advance(15)
    told = [each.form for each in application.requests("/wait") if each.form["CallSid"] == second]
    places = [(each["QueuePosition"], each["CurrentQueueSize"]) for each in told]
    assert places[0] == ("2", "2")
    assert places[-1] == ("1", "1")
    assert int(told[-1]["QueueTime"]) >= 10


def test_keys_in_the_queue_can_leave_it(phone: Phone, application: Application) -> None:
    application.says("/wait", '<Gather numDigits="1" action="/key"><Say>Press 1.</Say></Gather>')
    application.says("/key", "<Say>Bye.</Say><Leave/>")
    sid = queued(phone, application, 'waitUrl="/wait"')
    phone.api.press(sid, "1")
    phone.advance(5)
    (left,) = application.requests("/left")
    assert left.form["QueueResult"] == "leave"
    assert "Bye." in phone.heard(sid)


def test_a_full_queue_accepts_nobody_else(phone: Phone, application: Application) -> None:
    queued(phone, application, 'maxQueueSize="1"')
    queued(phone, application, 'maxQueueSize="1"')
    (left,) = application.requests("/left")
    assert left.form["QueueResult"] == "queue-full"


def test_without_an_action_the_next_verb_follows_the_queue(
    phone: Phone, application: Application
) -> None:
    application.says("/wait", '<Pause length="3"/><Leave/>')
    sid = phone.call(
        Url=application.says("/start", '<Enqueue waitUrl="/wait">q</Enqueue><Say>Next.</Say>')
    )
    phone.advance(60)
    assert phone.heard(sid) == ["Next."]


def test_a_waiting_document_that_fails_ends_the_call(
    phone: Phone, application: Application
) -> None:
    sid = queued(phone, application, 'waitUrl="/missing"')
    phone.advance(60)
    assert phone.error_codes(sid) == ["11200"]
    assert phone.record(sid)["status"] == "completed"


def test_a_caller_who_hangs_up_in_the_queue_makes_room_and_is_reported(
    phone: Phone, application: Application
) -> None:
    first = queued(phone, application, 'maxQueueSize="1"')
    phone.api.hang_up(first)
    phone.advance(1)
    queued(phone, application, 'maxQueueSize="1"')
    assert [each.form["QueueResult"] for each in application.requests("/left")] == ["hangup"]


def test_the_action_of_dial_is_requested_when_the_caller_hangs_up(
    phone: Phone, application: Application
) -> None:
    def done(_: Asked) -> Page:
        return Page("<Response><Say>Nobody hears this.</Say></Response>")

    application.pages["/done"] = done
    sid = phone.call(Url=application.says("/start", f'<Dial action="/done">{ALICE}</Dial>'))
    phone.advance(10)
    phone.api.hang_up(sid)
    phone.advance(60)
    (asked,) = application.requests("/done")
    assert (asked.form["DialCallStatus"], asked.form["CallStatus"]) == ("completed", "completed")
    assert phone.children(sid)[0]["status"] == "completed"
    assert phone.heard(sid) == []
