"""Scenario files."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from calls_mcp.emulator import Account, Emulator, ManualClock, Scenario, Script, StartError
from calls_mcp.emulator.scenario import Reaction, load_scenario

from .api_client import ApiClient, connected

pytestmark = pytest.mark.anyio

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


@pytest.fixture
async def api(file: Path, account: Account, clock: ManualClock) -> AsyncGenerator[ApiClient]:
    scenario = load_scenario(str(file))
    emulator = Emulator(account=account, clock=clock, port=None, scenario=scenario)
    async with emulator, connected(emulator) as api:
        yield api


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
async def test_a_destination_follows_its_script(
    api: ApiClient, to: str, seconds: float, end: object
) -> None:
    sid = await api.call(to)
    api.advance(seconds - 0.1)
    assert (await api.fetch(sid))["end_time"] is None
    api.advance(0.1)
    call = await api.fetch(sid)
    assert (call["status"], call["duration"]) == end


@pytest.mark.parametrize(
    ("detection", "found"),
    [("Enable", "machine_start"), ("DetectMessageEnd", "machine_end_silence")],
)
async def test_a_script_sets_answered_by_and_price(
    api: ApiClient, detection: str, found: str
) -> None:
    sid = await api.call("+12025550101", {"MachineDetection": detection})
    api.advance(98)
    assert (await api.fetch(sid))["price"] is None
    api.advance(5)
    call = await api.fetch(sid)
    assert (call["price"], call["answered_by"]) == ("-0.50000", found)


async def test_a_call_times_out_before_a_slow_destination_answers(
    account: Account, clock: ManualClock
) -> None:
    scenario = Scenario(otherwise=Script(answer_after=50))
    emulator = Emulator(account=account, clock=clock, port=None, scenario=scenario)
    async with emulator, connected(emulator) as api:
        sid = await api.call(changes={"Timeout": "20"})
        clock.advance(21)
        assert (await api.fetch(sid))["status"] == "no-answer"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "Expected '='"),
        ('["+12025550101"]\ntalk = 5', "+12025550101.talk: unknown key"),
        ('["+12025550101"]\ntalk_for = -5', "talk_for: must be 0 or more"),
        ('["+12025550101"]\ntalk_for = "x"', "talk_for: must be a number"),
        ('["+12025550101"]\nprice = 1', "price: must be 0 or less"),
        (
            '["+12025550101"]\nreactions = [{ at = 1, press = "hello" }]',
            "reactions.0.press: must be 1 to 64 of the characters ",
        ),
        ('["+12025550101"]\nend_as = "canceled"', "end_as: must be completed, busy, no-answer or"),
        ('["+12025550101"]\nanswered_by = "dog"', "answered_by: must be human, machine, "),
        (
            '["2025550101"]\ntalk_for = 5',
            "2025550101: must be a phone number, SIP address, client or",
        ),
        ('"+12025550101" = 5', "+12025550101: must be a table"),
        (
            '[["+12025550101".reactions]]\npress = "1"',
            "+12025550101.reactions.0: needs either at or hears",
        ),
        (
            '[["+12025550101".reactions]]\nat = 1\npress = "1"\nhang_up = true',
            "+12025550101.reactions.0: needs one of press, say and hang_up",
        ),
        ("speed = 5", "speed: must be a phone number"),
        ("\udcff", "the file is not UTF-8"),
        ("[otherwise]\ngreeting = 1", "otherwise.greeting: must be a string"),
        ('[otherwise]\nreactions = "a"', "otherwise.reactions: must be a list"),
        ("[otherwise]\nreactions = { at = 1 }", "otherwise.reactions: must be a list"),
        ('[[otherwise.reactions]]\nat = 1\nsay = ""', "reactions.0.say: must not be empty"),
        (None, "can't be read: No such file"),
    ],
)
def test_an_invalid_file_is_reported_in_one_line(
    tmp_path: Path, text: str | None, reason: str
) -> None:
    file = tmp_path / "scenario.toml"
    if text is not None:
        file.write_text(text, "utf-8", "surrogateescape")
    with pytest.raises(StartError) as caught:
        load_scenario(str(file))
    message = str(caught.value)
    assert message.startswith(f"--scenario {file}: ")
    assert reason in message
    assert "\n" not in message


def test_an_incomplete_reaction_is_refused_in_code_too() -> None:
    with pytest.raises(ValueError, match="needs either at or hears"):
        Reaction(press="1")
    with pytest.raises(ValueError, match="needs one of press, say and hang_up"):
        Reaction(at=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("end_as", "buzy"),
        ("answered_by", "robot"),
        ("answer_after", -1),
        ("voice_method", "PUT"),
        ("reactions", ["press 1"]),
    ],
)
def test_an_invalid_script_is_refused_in_code_too(field: str, value: object) -> None:
    values: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=field):
        Script(**values)


def test_an_invalid_reaction_is_refused_in_code_too() -> None:
    with pytest.raises(ValueError, match="press"):
        Reaction(at=1, press="5 times")
