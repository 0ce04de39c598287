"""The verbs that involve one call only, from `<Say>` to `<Record>`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from calls_mcp.emulator.scenario import PLAY_SECONDS, keys_seconds, speech_seconds
from calls_mcp.emulator.voice.call_leg import FOREVER, Ended, Pressed, Redirected, Spoken, Steps
from calls_mcp.emulator.voice.instructions import Instructions
from calls_mcp.emulator.voice.session import HangUp, Session, Verb
from calls_mcp.emulator.voice.twiml_elements import Element

MOST_LOOPS = 1000
GATHER_TIMEOUT = RECORD_TIMEOUT = 5  # seconds
LONGEST_RECORDING = 3600  # seconds
CONFIDENCE = "0.9"

Reply = Pressed | Spoken


# What the other party hears


def _prompt(session: Session, verb: Element, kinds: tuple[type[Reply], ...]) -> Steps[Reply | None]:
    """Say, play or pause; return the first reply of these types that interrupts it."""
    if verb.name == "Pause":
        seconds = verb.number("length", 1)
        session.note("paused", f"{seconds} s")
        return (yield from session.await_input(kinds, session.now + seconds))
    loops = min(verb.number("loop", 1) or MOST_LOOPS, MOST_LOOPS)
    repeats = "" if loops == 1 else str(loops)
    if verb.name == "Say":
        seconds = speech_seconds(verb.text)
        language, voice = verb.get("language"), verb.get("voice")
        session.note("said", verb.text, language=language, voice=voice, loop=repeats)
    elif keys := verb.get("digits"):
        seconds = keys_seconds(keys)
        session.note("pressed", keys, by="application", loop=repeats)
        session.switchboard.press(session.sid, keys)
    else:
        seconds = PLAY_SECONDS
        session.note("played", verb.text, loop=repeats)
    reply = yield from session.await_input(kinds, session.now + seconds * loops)
    if reply is None:
        session.switchboard.tell(session.sid, verb.text)
    return reply


def _speak(session: Session, verb: Element) -> Steps[None]:
    yield from _prompt(session, verb, ())


# What the other party is asked


def _gather(session: Session, verb: Element) -> Steps[None]:
    kinds = _accepted(verb)
    timeout = verb.number("timeout", GATHER_TIMEOUT)
    asked = " or ".join("keys" if kind is Pressed else "speech" for kind in kinds)
    session.note("asked", f"for {asked}", timeout=f"{timeout} s")
    reply = yield from _prompts(session, verb.children, kinds)
    if reply is None:
        reply = yield from session.await_input(kinds, session.now + timeout)
    digits, finished_on, speech = "", "", ""
    while reply is not None:
        if isinstance(reply, Spoken):
            speech = reply.text
            yield from session.wait(speech_seconds(speech))
            break
        if reply.key in verb.attributes.get("finishOnKey", "#"):
            finished_on = reply.key
            break
        digits += reply.key
        if len(digits) == verb.number("numDigits", 0):
            break
        reply = yield from session.await_input((Pressed,), session.now + timeout)
    if speech:
        parameters = {"SpeechResult": speech, "Confidence": CONFIDENCE}
    elif kinds == (Spoken,) and verb.flag("actionOnEmptyResult"):
        parameters = {"SpeechResult": ""}
    elif digits or verb.flag("actionOnEmptyResult"):
        parameters = {"Digits": digits, "FinishedOnKey": finished_on, "msg": "Gather End"}
    else:
        session.note("asked", "and got no answer")
        return
    raise Redirected(Instructions(verb.get("action", session.url), None, verb.method(), parameters))


def _accepted(verb: Element) -> tuple[type[Reply], ...]:
    words = verb.get("input", "dtmf").split()
    kinds: Mapping[str, type[Reply]] = {"dtmf": Pressed, "speech": Spoken}
    return tuple(kinds[word] for word in words if word in kinds) or (Pressed,)


def _prompts(
    session: Session, verbs: Sequence[Element], kinds: tuple[type[Reply], ...]
) -> Steps[Reply | None]:
    for verb in verbs:
        if reply := (yield from _prompt(session, verb, kinds)):
            return reply
    return None


# What is recorded


def _record(session: Session, verb: Element) -> Steps[None]:
    """Record what the other party says. Silence alone is not recorded."""
    timeout = verb.number("timeout", RECORD_TIMEOUT)
    started = session.now
    latest = started + verb.number("maxLength", LONGEST_RECORDING)
    session.note("asked", "for a message", timeout=f"{timeout} s")
    spoke, saved, digits = False, dict[str, str](), ""
    try:
        until = min(started + timeout, latest)
        while reply := (yield from session.await_input((Pressed, Spoken), until)):
            if isinstance(reply, Spoken):
                spoke = True
                yield from session.wait(min(speech_seconds(reply.text), latest - session.now))
                until = min(session.now + timeout, latest)
            elif reply.key in verb.attributes.get("finishOnKey", "1234567890*#"):
                digits = reply.key
                break
    except Ended:
        digits = "hangup"
        if not spoke:
            raise
    finally:
        if spoke:
            saved.update(session.save_recording("RecordVerb", verb, started, 1))
    if not spoke:
        session.note("asked", "and got no message")
        return
    action = {**verb.attributes, "action": verb.get("action", session.url)}
    session.proceed(replace(verb, attributes=action), {**saved, "Digits": digits})


# What ends the document or the call


def _redirect(session: Session, verb: Element) -> Steps[None]:
    raise Redirected(Instructions(verb.text or session.url, None, verb.method()))
    yield  # every verb is a generator


def _hang_up(session: Session, verb: Element) -> Steps[None]:  # noqa: ARG001 - a verb's signature
    raise HangUp("by the instructions")
    yield


def _reject(session: Session, verb: Element) -> Steps[None]:
    """Reject a call that is not answered yet; after the answer it ends the call."""
    if session.leg.is_incoming:
        is_busy = verb.get("reason") == "busy"
        session.switchboard.hang_up(session.sid, "busy" if is_busy else "no-answer")
    raise HangUp(f"by <Reject> ({verb.get('reason', 'rejected')})")
    yield


def _refer(session: Session, verb: Element) -> Steps[None]:
    """Refer the caller elsewhere, which ends the call for the application."""
    session.note("referred", " ".join(child.text for child in verb.children))
    session.proceed(verb, {"ReferCallStatus": "completed", "ReferSipResponseCode": "202"})
    raise HangUp("after the referral")
    yield


def _connect(session: Session, verb: Element) -> Steps[None]:
    """Hold the call as a stream does until one side ends. No WebSocket is opened."""
    for noun in verb.children:
        if noun.name == "Stream":
            session.note("connected", f"to the stream {noun.get('url')}")
            yield from session.wait(FOREVER)
        session.note("skipped", f"<Connect><{noun.name}>, which the emulator does not execute")
    session.proceed(verb, {})


VERBS: Mapping[str, Verb] = {
    "Say": _speak,
    "Play": _speak,
    "Pause": _speak,
    "Gather": _gather,
    "Record": _record,
    "Redirect": _redirect,
    "Hangup": _hang_up,
    "Reject": _reject,
    "Refer": _refer,
    "Connect": _connect,
}
