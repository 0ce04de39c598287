"""The called party follows its script during the call."""

from pathlib import Path

import pytest

from calls_mcp.emulator import Scenario, Script
from calls_mcp.emulator.scenario import Reaction, load_scenario

from .phone import CALLEE, Application, Phone, switched_on

MENU = '<Gather numDigits="1" action="/chosen"><Say>Press 1 for SALES.</Say></Gather>'


def scripted(tmp_path: Path, toml: str) -> Scenario:
    file = tmp_path / "scenario.toml"
    file.write_text(f'["{CALLEE}"]\n{toml}', "utf-8")
    return load_scenario(str(file))


@pytest.mark.parametrize(
    ("reactions", "parameters"),
    [
        ('[{ hears = "for sales", press = "1" }]', {"Digits": "1"}),
        ('[{ hears = "1   for", after = 3.5, press = "2" }]', {"Digits": "2"}),
        ('[{ at = 1, press = "3" }]', {"Digits": "3"}),
        ('[{ at = 1, press = "WW4" }]', {"Digits": "4"}),
        ('[{ hears = "nothing", press = "5" }, { hears = "press", press = "6" }]', {"Digits": "6"}),
    ],
)
def test_a_script_in_the_scenario_presses_keys(
    application: Application, tmp_path: Path, reactions: str, parameters: dict[str, str]
) -> None:
    scenario = scripted(tmp_path, f"reactions = {reactions}")
    application.says("/chosen", "<Say>Thanks.</Say>")
    with switched_on(application, scenario.numbers) as phone:
        sid = phone.call(Url=application.says("/menu", MENU))
        phone.advance(60)
        assert phone.heard(sid)[-1] == "Thanks."
    assert parameters.items() <= application.requests("/chosen")[0].form.items()


def test_each_reaction_is_used_once_and_in_order(application: Application) -> None:
    reactions = (
        Reaction(hears="name", say="Alice"),
        Reaction(hears="name", say="Smith"),
        Reaction(hears="bye", hang_up=True),
    )
    ask = '<Gather input="speech" action="/next"><Say>Your name?</Say></Gather>'
    application.says("/next", f"{ask}<Say>Good bye!</Say><Pause length='60'/>")
    with switched_on(application, {CALLEE: Script(reactions=reactions)}) as phone:
        sid = phone.call(Url=application.says("/start", ask))
        phone.advance(100)
        assert phone.events(sid, "spoke") == ["Alice", "Smith"]
        assert phone.events(sid, "hung up") == ["by the other party"]
    assert [asked.form["SpeechResult"] for asked in application.requests("/next")] == [
        "Alice",
        "Smith",
    ]


def test_the_other_party_hangs_up_at_a_time(application: Application) -> None:
    script = Script(reactions=(Reaction(at=7, hang_up=True),))
    with switched_on(application, {CALLEE: script}) as phone:
        sid = phone.call('<Pause length="60"/>')
        phone.advance(100)
        assert phone.record(sid)["duration"] == "7"


def test_a_callee_who_talks_for_a_time_hangs_up_during_the_instructions(
    application: Application,
) -> None:
    with switched_on(application, {CALLEE: Script(talk_for=4)}) as phone:
        sid = phone.call('<Pause length="60"/><Say>Too late.</Say>')
        phone.advance(100)
        assert phone.record(sid)["duration"] == "4"
        assert phone.heard(sid) == []


@pytest.mark.parametrize(
    ("form", "seconds"),
    [
        ({"MachineDetection": "DetectMessageEnd"}, 4),
        ({"MachineDetection": "DetectMessageEnd", "AsyncAmd": "true"}, 0),
        ({"MachineDetection": "Enable"}, 0),
        ({}, 0),
    ],
)
def test_detection_of_the_end_of_the_greeting_delays_the_instructions(
    application: Application, form: dict[str, str], seconds: int
) -> None:
    script = Script(
        answered_by="machine", greeting="Nobody is here. Please leave a message after it."
    )
    with switched_on(application, {CALLEE: script}) as phone:
        sid = phone.call("<Say>This is a message.</Say>", **form)
        phone.advance(60)
        (greeting, said) = [
            each for each in phone.api.transcript(sid) if each.event in {"spoke", "said"}
        ]
    assert greeting.event == "spoke"
    assert int(said.at - greeting.at) == (3 if seconds else 0)


def test_a_fax_answers_and_is_detected(phone: Phone, application: Application) -> None:
    url = application.says("/start", "<Hangup/>")
    phone.call(Url=url, to="+15005550207", MachineDetection="Enable")
    phone.advance(60)
    assert application.asked[0].form["AnsweredBy"] == "fax"


def test_the_control_api_presses_says_and_hangs_up(phone: Phone, application: Application) -> None:
    sid = phone.call(Url=application.says("/menu", MENU.replace("<Gather", '<Gather timeout="60"')))
    application.says("/chosen", '<Gather input="speech" action="/said" timeout="60"/>')
    application.says("/said", '<Pause length="60"/>')
    phone.advance(6)
    control = f"{phone.api.base_url}/emulator/calls/{sid}"
    for action, body in (("press", {"keys": "1"}), ("say", {"text": "Hello"}), ("hangup", {})):
        assert phone.http.post(f"{control}/{action}", json=body).status_code == 204
        phone.advance(2)
    assert [asked.path for asked in application.asked] == ["/menu", "/chosen", "/said"]
    transcript = phone.http.get(f"{control}/transcript").json()["transcript"]
    events = [(each["event"], each["text"]) for each in transcript]
    assert ("pressed", "1") in events
    assert ("spoke", "Hello") in events
    assert events[-2:] == [("hung up", "by the other party"), ("ended", "completed")]


@pytest.mark.parametrize(
    ("action", "body"),
    [("press", {"keys": "E"}), ("press", {}), ("say", {"text": ""}), ("say", {"words": "a"})],
)
def test_the_control_api_refuses_what_nobody_can_do(
    phone: Phone, action: str, body: dict[str, str]
) -> None:
    sid = phone.call('<Pause length="60"/>')
    phone.advance(5)
    url = f"{phone.api.base_url}/emulator/calls/{sid}/{action}"
    assert phone.http.post(url, json=body).status_code == 400


def test_nobody_can_press_a_key_in_a_call_that_has_ended(phone: Phone) -> None:
    sid = phone.call("<Hangup/>")
    phone.advance(60)
    url = f"{phone.api.base_url}/emulator/calls/{sid}/press"
    refused = phone.http.post(url, json={"keys": "1"})
    assert (refused.status_code, refused.json()["code"]) == (400, 21220)


def test_reactions_after_the_end_of_a_call_are_forgotten(application: Application) -> None:
    reactions = (
        Reaction(at=30, press="1"),
        Reaction(at=30, say="Hello"),
        Reaction(at=30, hang_up=True),
    )
    with switched_on(application, {CALLEE: Script(reactions=reactions)}) as phone:
        sid, other = phone.call("<Hangup/>"), phone.call("<Hangup/>")
        phone.advance(10)
        assert phone.http.delete(f"Calls/{other}.json").status_code == 204
        phone.advance(60)
        assert phone.story(sid)[-1].endswith("ended completed")
