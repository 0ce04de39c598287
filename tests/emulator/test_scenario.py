"""What destinations do, by a file."""

from pathlib import Path

import pytest

from calls_mcp.emulator import Account, Emulator, ManualClock, Scenario, Script, StartError
from calls_mcp.emulator.scenario import load_scenario

from .judge import judging

SCENARIO = """
["+12025550101"]
answer_after = 7
talk_for = 90
answered_by = "machine_end_silence"
price = -0.5

["+12025550102"]
end_as = "busy"
answer_after = 2

["+12025550103"]
end_as = "no-answer"

["+15005550201"]  # busy otherwise
talk_for = 5

["+15005550002"]  # cannot be reached otherwise
talk_for = 5

["client:kate"]
end_as = "failed"
answer_after = 0

[otherwise]
talk_for = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "scenario.toml"
    file.write_text(SCENARIO, "utf-8")
    return file


@pytest.mark.parametrize(
    ("to", "seconds", "end"),
    [
        ("+12025550101", 98, ("completed", "90")),
        ("+12025550102", 3, ("busy", None)),
        ("+12025550103", 61, ("no-answer", None)),
        ("+15005550201", 9, ("completed", "5")),
        ("+15005550002", 9, ("completed", "5")),
        ("client:kate", 1, ("failed", None)),
        ("+12025550199", 5, ("completed", "1")),
        ("+15005550208", 4, ("completed", "0")),
    ],
)
def test_a_destination_does_what_the_file_says(
    file: Path, account: Account, clock: ManualClock, to: str, seconds: float, end: object
) -> None:
    emulator = Emulator(account=account, clock=clock, scenario=load_scenario(str(file)))
    with judging(emulator) as judge:
        sid = judge.call(to)
        clock.advance(seconds - 0.1)
        assert judge.client.calls(sid).fetch().end_time is None
        clock.advance(0.1)
        call = judge.client.calls(sid).fetch()
        assert (call.status, call.duration) == end


@pytest.mark.parametrize(
    ("detection", "found"),
    [("Enable", "machine_start"), ("DetectMessageEnd", "machine_end_silence")],
)
def test_a_file_says_who_answers_and_what_it_costs(
    file: Path, account: Account, clock: ManualClock, detection: str, found: str
) -> None:
    emulator = Emulator(account=account, clock=clock, scenario=load_scenario(str(file)))
    with judging(emulator) as judge:
        wishes = {"machine_detection": detection}
        sid = judge.call("+12025550101", wishes)
        clock.advance(98)
        assert judge.client.calls(sid).fetch().price is None
        clock.advance(5)
        call = judge.client.calls(sid).fetch()
        assert (call.price, call.answered_by) == ("-0.50000", found)


def test_the_timeout_of_a_call_is_shorter_than_a_patient_file(
    account: Account, clock: ManualClock
) -> None:
    patient = Scenario(otherwise=Script(answer_after=50))
    emulator = Emulator(account=account, clock=clock, scenario=patient)
    with judging(emulator) as judge:
        sid = judge.call(wishes={"timeout": 20})
        clock.advance(21)
        assert judge.client.calls(sid).fetch().status == "no-answer"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nonsense", "Expected '='"),
        ('["+12025550101"]\ntalk = 5', "talk"),
        ('["+12025550101"]\ntalk_for = -5', "talk_for"),
        ('["+12025550101"]\nprice = 1', "price"),
        ('["+12025550101"]\nend_as = "canceled"', "end_as"),
        ('["+12025550101"]\nanswered_by = "dog"', "answered_by"),
        ('["2025550101"]\ntalk_for = 5', "2025550101"),
        ("speed = 5", "speed"),
        ("\udcff", "utf-8"),
        (None, "No such file"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str | None, told: str) -> None:
    file = tmp_path / "scenario.toml"
    if text is not None:
        file.write_text(text, "utf-8", "surrogateescape")
    with pytest.raises(StartError) as caught:
        load_scenario(str(file))
    message = str(caught.value)
    assert message.startswith(f"--scenario {file}: ")
    assert told in message
    assert "\n" not in message
