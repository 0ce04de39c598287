"""Whatever the instructions are, every call ends, and its transcript is bounded."""

from collections.abc import Generator
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calls_mcp.emulator import Script
from calls_mcp.emulator.scenario import Reaction
from calls_mcp.emulator.transcripts import LONGEST
from calls_mcp.emulator.voice.call_leg import Budget
from calls_mcp.emulator.voice.twiml_elements import ELEMENTS

from .phone import CALLEE, Phone, serving, switched_on

FIVE_HOURS = 5 * 3600
FIRST, SECOND, TALKATIVE = "+12025550177", "+12025550178", "+12025550104"
NOBODY = "+15005550202"
PATHS = ("/first", "/second")
URLS = [*PATHS, "", "/missing", "http://[broken", "http://example.com/", "http://127.0.0.1:1/"]

# times are none or long, because a loop of a second has thousands of requests
ATTRIBUTES = {
    "loop": ["0", "900", "-1", "x"],
    "length": ["0", "600", "99999999999"],
    "timeout": ["0", "600", ""],
    "maxLength": ["0", "600"],
    "numDigits": ["0", "1"],
    "finishOnKey": ["", "#", "0123456789*#"],
    "timeLimit": ["0", "600"],
    "maxQueueSize": ["0", "1"],
    "maxParticipants": ["0", "1", "2"],
    "input": ["dtmf", "speech", "dtmf speech", "x"],
    "digits": ["", "1w2", "?"],
    "sendDigits": ["ww1", "x"],
    "record": ["record-from-answer", "true", "x"],
    "reason": ["busy", "x"],
    "method": ["GET", "POST", "x"],
    "sequential": ["true", "false", "x"],
    "hangupOnStar": ["true", "x"],
    "actionOnEmptyResult": ["true", "x"],
    "endConferenceOnExit": ["true", "x"],
    "action": URLS,
    "url": URLS,
    "waitUrl": URLS,
    "statusCallback": URLS,
    "recordingStatusCallback": URLS,
}
TEXTS = {
    "Redirect": ["", *PATHS, "http://[broken", "/missing"],
    "Conference": ["room", "other"],
    "Queue": ["support", "other"],
    "Enqueue": ["support", "other"],
}
PARTIES = ["", "x", "Hello", CALLEE, FIRST, SECOND, TALKATIVE, NOBODY]


@st.composite
def elements(draw: st.DrawFn, path: str = "") -> ET.Element:
    """Return an element that TwiML allows below a path, with its usual attributes or nonsense."""
    prefix = f"{path}/" if path else ""
    depth = prefix.count("/")
    names = [
        each
        for each, known in ELEMENTS.items()
        if each.startswith(prefix)
        and each.count("/") == depth
        and (known.available or each == "Pay")
    ]
    chosen = draw(st.sampled_from(names))
    known = ELEMENTS[chosen]
    element = ET.Element(chosen.rpartition("/")[2])
    usable = [name for name in known.executed.split() if name in ATTRIBUTES]
    for name in draw(st.lists(st.sampled_from(usable), max_size=4)) if usable else ():
        element.set(name, draw(st.sampled_from(ATTRIBUTES[name])))
    element.set(draw(st.sampled_from(["x", "loop", "voice"])), "0")
    element.text = draw(st.sampled_from(TEXTS.get(element.tag, PARTIES)))
    for name in {"length", "timeout"} & {*known.executed.split()} - {*element.attrib}:
        element.set(name, "600")
    if any(each.startswith(f"{chosen}/") for each in ELEMENTS):
        element.extend(draw(st.lists(elements(chosen), max_size=3)))
    return element


@st.composite
def documents(draw: st.DrawFn) -> str:
    verbs = draw(st.lists(elements(), max_size=5))
    return "".join(ET.tostring(verb, "unicode") for verb in verbs)


REACTIONS = (
    Reaction(at=1, press="1"),
    Reaction(at=2, say="Hello"),
    Reaction(hears="hello", press="*#"),
    Reaction(at=700, press="12#"),
    Reaction(at=1500, say="Good bye"),
)


@pytest.fixture(scope="module")
def looping() -> Generator[Phone]:
    """An emulator of which two numbers have instructions that can call each other.

    A call may ask for a fraction of the usual documents and calls, so that its end comes soon.
    """
    with pytest.MonkeyPatch.context() as patch, serving() as application:
        patch.setattr(Budget.__init__, "__defaults__", (25, 5))  # documents, calls
        numbers = dict(zip((FIRST, SECOND), PATHS, strict=True))
        scripts = {
            number: Script(voice_url=application.url + path) for number, path in numbers.items()
        }
        scripts[TALKATIVE] = Script(reactions=REACTIONS)
        with switched_on(application, scripts) as phone:
            yield phone


def ended(phone: Phone) -> int:
    """Let five hours pass, check that all calls have ended, and return their number."""
    phone.advance(FIVE_HOURS)
    calls = phone.api.calls
    assert [call for call in calls if call.live] == []
    assert all(len(phone.api.transcript(call.sid)) <= LONGEST for call in calls)
    return len(calls)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    first=documents(),
    second=documents(),
    to=st.sampled_from([CALLEE, FIRST, SECOND, TALKATIVE]),
)
def test_all_calls_end_whatever_their_instructions_are(
    looping: Phone, first: str, second: str, to: str
) -> None:
    looping.api.reset()
    for path, verbs in zip(PATHS, (first, second), strict=True):
        looping.application.says(path, verbs)
    looping.call(Url=looping.application.url + PATHS[0], to=to)
    looping.ring(FIRST, Script(reactions=REACTIONS))
    # each dialed call can have a record at both ends
    assert ended(looping) <= 2 * (2 + 2 * Budget().calls)


@pytest.mark.parametrize(
    "verbs",
    [
        f"<Dial>{FIRST}</Dial><Redirect/>",
        f"<Dial><Number>{FIRST}</Number><Number>{SECOND}</Number></Dial><Redirect/>",
        f'<Dial timeout="0">{NOBODY}</Dial><Redirect/>',
        f'<Dial><Number url="/second">{FIRST}</Number></Dial>',
        f'<Dial sequential="true"><Number>{NOBODY}</Number><Number>{FIRST}</Number></Dial>',
        '<Enqueue waitUrl="/first">support</Enqueue>',
        '<Enqueue waitUrl="/second">support</Enqueue><Redirect/>',
        "<Dial><Queue>support</Queue></Dial><Redirect/>",
        '<Gather actionOnEmptyResult="true" timeout="0"/>',
    ],
)
def test_calls_that_dial_or_redirect_themselves_end(looping: Phone, verbs: str) -> None:
    looping.api.reset()
    looping.application.says("/first", verbs)
    looping.application.says("/second", f"<Dial>{FIRST}</Dial><Redirect/>")
    looping.call(Url=f"{looping.application.url}/first")
    looping.ring(FIRST)
    assert ended(looping) <= 2 * (1 + 2 * Budget().calls)


def test_a_call_that_redirects_itself_every_second_ends(looping: Phone) -> None:
    looping.api.reset()
    looping.application.asked.clear()
    looping.call(Url=looping.application.says("/first", "<Say>Again</Say><Redirect/>"))
    ended(looping)
    assert len(looping.application.asked) == Budget().documents


def test_a_transcript_has_a_thousand_entries_at_most(looping: Phone) -> None:
    looping.api.reset()
    said = "<Say>Again</Say>" * 2 * LONGEST
    sid = looping.call(Url=looping.application.says("/first", said))
    ended(looping)
    assert len(looping.api.transcript(sid)) == LONGEST == 1000
