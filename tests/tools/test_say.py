"""`say`: a text that is spoken on the call, sent as TwiML."""

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.emulator.api.parameters import CREATE
from calls_mcp.observability.redaction import first_invisible
from tests.audit_records import lines_in
from tests.guard.test_policy import policy
from tests.harness import CALLER, TALKS_FOR_AN_HOUR, TWIML, Agent, open_harness
from tests.strategies import SID
from tests.tools.faults import checked, fault_of, faults

PLACE = {"to": TALKS_FOR_AN_HOUR, "from": CALLER}
SAID = 'Q&A <at> 9:\r\n"it\'s" ]]> https://example.com/ 東京'
FRAME = len("<Response><Say></Say></Response>")

_visible = st.characters(exclude_categories=("C", "Zl", "Zp"), exclude_characters="ᅟᅠ⠀ㅤﾠ")
_texts = st.text(_visible | st.sampled_from("\t\r\n &<>\"'\u200d"), min_size=1, max_size=300)


def sent_for(text: str) -> str:
    return str(checked("create_call", {**PLACE, "say": text}).values["twiml"])


def spoken_in(twiml: str) -> str | None:
    (say,) = ET.fromstring(twiml)  # noqa: S314  # it is our own
    assert (say.tag, say.attrib, [*say]) == ("Say", {}, [])
    return say.text


@given(_texts.filter(lambda text: text.strip() and not first_invisible(text, "\t\r\n")))
def test_a_text_is_spoken_exactly(text: str) -> None:
    assert spoken_in(sent_for(text)) == text
    assert CREATE["Twiml"].accepts(sent_for(text))


@pytest.mark.parametrize("tool", ["create_call", "update_call"])
@pytest.mark.parametrize(("character", "width"), [("x", 1), ("&", 5), ("\r", 5)])
def test_a_text_may_be_as_long_as_its_twiml(tool: str, character: str, width: int) -> None:
    base = {**PLACE} if tool == "create_call" else {"sid": SID}
    longest = 2 * character + "x" * (4000 - FRAME - 2 * width)
    assert len(str(checked(tool, {**base, "say": longest}).values["twiml"])) == 4000
    told = faults(tool, {**base, "say": longest + "xx"})
    assert told["say"].expected.endswith("; make it 2 characters shorter")


@pytest.mark.parametrize("text", [" \n\t", "bell\x07", "line\u2028break", "\ud800", "\ufffe", 7])
def test_a_text_without_words_or_with_control_characters_is_refused(text: object) -> None:
    assert faults("create_call", {**PLACE, "say": text}).keys() == {"say"}


def test_another_text_is_never_suggested() -> None:
    assert fault_of("update_call", "say", "Write to me:\x07 to a@example.com").did_you_mean is None


@pytest.mark.parametrize(
    ("tool", "name", "value"),
    [
        ("create_call", "url", "https://example.com/"),
        ("create_call", "twiml", TWIML),
        ("create_call", "application_sid", "AP" + "0" * 32),
        ("update_call", "url", "https://example.com/"),
        ("update_call", "twiml", TWIML),
    ],
)
def test_a_text_excludes_other_instructions(tool: str, name: str, value: str) -> None:
    base = {**PLACE} if tool == "create_call" else {"sid": SID}
    fault = faults(tool, {**base, "say": "Hello", name: value})["say"]
    assert (fault.received, fault.expected) == (
        f"say and {name} together",
        "say alone, or no say",
    )


def test_a_text_with_several_other_instructions_is_one_fault() -> None:
    others = {"url": "https://example.com/", "application_sid": "AP" + "0" * 32}
    told = faults("create_call", {**PLACE, "say": "Hello", **others})
    assert (told["say"].received, told["say"].expected) == (
        "say, url and application_sid together",
        "say alone, or no say",
    )
    assert len(told) == 1


async def confirmed(agent: Agent, tool: str, arguments: Mapping[str, object]) -> None:
    outcome = await agent.confirm(tool, **arguments)
    assert outcome["outcome"] == "done"


@pytest.mark.anyio
async def test_a_call_and_a_redirected_call_speak_the_text() -> None:
    async with open_harness() as harness, harness.connect() as agent:
        sid = await agent.place()
        harness.clock.advance(10)
        await confirmed(agent, "update_call", {"sid": sid, "say": SAID})
        await confirmed(agent, "create_call", {"to": "+15005550206", "from": CALLER, "say": SAID})
        for request in harness.changes[-2:]:
            form = dict(request.form)
            assert "Say" not in form
            assert spoken_in(form["Twiml"]) == SAID


@pytest.mark.anyio
async def test_a_confirmation_is_bound_to_the_text() -> None:
    async with open_harness() as harness, harness.connect() as agent:
        asked = await agent.call("create_call", **PLACE, say="Yes")
        token = asked["confirmation"]["token"]
        other = await agent.call("create_call", **PLACE, say="No", confirmation_token=token)
        assert other["error"]["kind"] == "invalid_confirmation"
        done = await agent.call("create_call", **PLACE, say="Yes", confirmation_token=token)
        assert done["outcome"] == "done"


@pytest.mark.anyio
async def test_the_policy_treats_the_text_as_twiml(tmp_path: Path) -> None:
    async with open_harness(calls_mcp_policy=None) as harness, harness.connect() as agent:
        link = await agent.call("create_call", **PLACE, say="See http://example.com/")
        assert link["outcome"] == "confirmation_required"
    rules = policy(tmp_path, "[twiml]\ninline = false\n[confirm]\nredirect = 'deny'\n")
    async with open_harness(calls_mcp_policy=rules) as harness, harness.connect() as agent:
        refused = await agent.call("create_call", **PLACE, say="Hello")
        assert "twiml.inline" in refused["error"]["message"]
        redirect = await agent.call("update_call", sid=SID, say="Hello")
        assert "confirm.redirect" in redirect["error"]["message"]


@pytest.mark.anyio
async def test_the_audit_log_does_not_contain_the_text(tmp_path: Path) -> None:
    record = tmp_path / "audit.db"
    async with (
        open_harness(calls_mcp_audit_database=record) as harness,
        harness.connect() as agent,
    ):
        await confirmed(agent, "create_call", {**PLACE, "say": "The code is 4711"})
    assert lines_in(record)
    assert not [line for line in lines_in(record) if "4711" in line]
