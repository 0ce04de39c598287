"""The preview of TwiML and the emulator, which interprets it independently, agree."""

from collections.abc import Iterator
from typing import cast
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.emulator.transcripts import TranscriptEntry
from calls_mcp.guard.twiml_words import in_words
from calls_mcp.tools.humanize import duration, exactly, formatted
from tests.emulator.voice.phone import Application, Phone, switched_on

OPENINGS = {
    "said": "A voice says ",
    "played": "It plays the audio at ",
    "pressed": "It presses ",
    "paused": "It waits for ",
    "dialed": "It connects the call to ",
}
WAITS = "It waits for key presses or speech."
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), min_size=1, max_size=40)
NUMBERS = st.sampled_from(["+12025550171", "+442079460000", "+15005550201", "+15005550208"])


@st.composite
def element(
    draw: st.DrawFn, name: str, text: st.SearchStrategy[str] | None = None, **attributes: object
) -> str:
    """Draw an element with this text; an attribute can be a strategy."""
    drawn = {
        key: draw(cast("st.SearchStrategy[object]", value))
        if isinstance(value, st.SearchStrategy)
        else value
        for key, value in attributes.items()
    }
    given = "".join(f" {key}={quoteattr(str(value))}" for key, value in drawn.items())
    return f"<{name}{given}>{'' if text is None else escape(draw(text))}</{name}>"


SPOKEN = (
    element("Say", TEXTS)
    | element("Say", TEXTS, loop=st.integers(2, 5))
    | element("Play", st.integers(1, 99).map("https://example.com/{}.mp3".format))
    | element("Pause", length=st.integers(1, 200))
)
GATHER = st.lists(SPOKEN, max_size=3).map(lambda inner: f"<Gather>{''.join(inner)}</Gather>")
OTHERS = st.sampled_from(["<Hangup/>", '<Reject reason="busy"/>'])
KEYS = element("Play", digits=st.from_regex("[0-9*#w]{1,6}", fullmatch=True))
DOCUMENTS = st.lists(SPOKEN | KEYS | GATHER | element("Dial", NUMBERS) | OTHERS, max_size=8)


@pytest.fixture(scope="module")
def phone() -> Iterator[Phone]:
    with switched_on(Application("")) as phone:
        yield phone


@given(DOCUMENTS.map("".join))
def test_the_sentences_are_what_the_emulator_plays(phone: Phone, body: str) -> None:
    twiml = f"<Response>{body}</Response>"
    sid = phone.call(Twiml=twiml)
    phone.advance(20_000)
    told = [*in_words(twiml)]
    played = [sentence for entry in phone.api.transcript(sid) for sentence in sentences(entry)]
    last = told.pop()
    assert [sentence for sentence in told if sentence != WAITS] == played
    asked = [entry.text for entry in phone.api.transcript(sid) if entry.event == "asked"]
    assert told.count(WAITS) == asked.count("for keys")
    assert last in {"Then it hangs up.", "It hangs up immediately.", "It rejects the call."}
    assert phone.record(sid)["status"] == "completed"


def sentences(entry: TranscriptEntry) -> Iterator[str]:
    """Yield the sentence that the preview has for something that was played."""
    match entry.event:
        case "said" | "played" | "pressed":
            shown = exactly(entry.text)
        case "paused":
            shown = duration(int(entry.text.removesuffix(" s")))
        case "dialed" if entry.text.startswith("+"):
            shown = formatted(entry.text)
        case _:
            return
    if entry.text:
        times = f" ({entry.details['loop']} times)" if "loop" in entry.details else ""
        sentence = OPENINGS[entry.event] + shown + times
        yield sentence if sentence.endswith(('."', '!"', '?"')) else f"{sentence}."
