"""The verbs that involve several calls: `<Dial>` and `<Enqueue>`, with its `<Leave>`."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from calls_mcp.emulator.call_lifecycle import DEFAULT_TIME_LIMIT, Status
from calls_mcp.emulator.voice import verbs
from calls_mcp.emulator.voice.call_leg import (
    FOREVER,
    Changed,
    Connected,
    Ended,
    Gone,
    Input,
    Leg,
    Party,
    Pressed,
    Redirected,
    Released,
    Steps,
)
from calls_mcp.emulator.voice.instructions import Instructions
from calls_mcp.emulator.voice.session import LeaveQueue, Session, Verb
from calls_mcp.emulator.voice.switchboard import Switchboard
from calls_mcp.emulator.voice.twiml_elements import ELEMENTS, Element

DIAL_TIMEOUT = 30  # seconds
DIAL_INTERVAL = 0.1  # seconds between simultaneous calls, so that one answers first
LONGEST_QUEUE = 100
INVALID_CALLER_ID = "13214"

Parameters = Mapping[str, str]


def _dial(session: Session, verb: Element) -> Steps[None]:
    nouns = tuple(_available(session, verb.children))
    if not verb.children and verb.text:
        nouns = (Element("Number", text=verb.text),)
    if not nouns:
        session.note("skipped", "<Dial>, which has nobody to call")
        return
    if nouns[0].name == "Conference":
        parameters = yield from _dial_conference(session, verb, nouns[0])
    elif nouns[0].name == "Queue":
        parameters = yield from _dial_queue(session, verb, nouns[0])
    else:
        parameters = yield from _dial_people(session, verb, nouns)
    session.proceed(verb, parameters)


def _available(session: Session, nouns: Sequence[Element]) -> Iterator[Element]:
    for noun in nouns:
        if ELEMENTS[f"Dial/{noun.name}"].available:
            yield noun
        else:
            session.note("skipped", f"<Dial><{noun.name}>, which the emulator does not execute")


# People


def _dial_people(session: Session, verb: Element, nouns: Sequence[Element]) -> Steps[Parameters]:
    parameters: Parameters = {"DialCallStatus": "failed"}
    if not _may_use_caller_id(session, verb, nouns):
        message = f"The caller ID {verb.get('callerId')} is not a number of the account."
        session.note("error", message, code=INVALID_CALLER_ID)
        return parameters
    batches = [[noun] for noun in nouns] if verb.flag("sequential") else [nouns]
    for batch in batches:
        parameters = yield from _ring(session, verb, batch)
        if parameters["DialCallStatus"] == "completed" or session.is_over:
            break
    return parameters


def _may_use_caller_id(session: Session, verb: Element, nouns: Sequence[Element]) -> bool:
    """Return whether `callerId` is allowed: for numbers, it must be the call's or the account's."""
    caller_id, call = verb.get("callerId"), session.switchboard.call(session.sid)
    if not caller_id or all(noun.name != "Number" for noun in nouns):
        return True
    return caller_id in {call.from_, call.to} or session.switchboard.owns(caller_id)


def _ring(session: Session, verb: Element, nouns: Sequence[Element]) -> Steps[Parameters]:
    """Call several parties at once, and talk to the first that answers."""
    timeout = verb.number("timeout", DIAL_TIMEOUT)
    caller_id = verb.get("callerId", session.switchboard.call(session.sid).from_)
    live, answered = list[str](), set[str]()
    last, until = "", session.now + timeout
    status: Status = "no-answer"
    try:
        for position, noun in enumerate(nouns):
            session.spend(calls=1)
            session.note("dialed", _name(noun), timeout=f"{timeout} s")
            delay = position * DIAL_INTERVAL
            party = Party(_address(noun), caller_id, delay, timeout, _with_urls(session, noun))
            live.append(session.switchboard.dial(session.sid, party))
        last = live[0]
        while live and (received := (yield FOREVER if answered else until)) is not None:
            if isinstance(received, Connected) and received.sid in live:
                live.remove(received.sid)
                for other in live:
                    session.switchboard.hang_up(other, "canceled")
                live.clear()
                return (yield from _talk(session, verb, received.sid))
            if isinstance(received, Changed) and received.call.sid in live:
                if received.call.live:  # answered, and listens to its own instructions first
                    answered.add(received.call.sid)
                    continue
                last, status = received.call.sid, received.call.status
                if status == "completed":  # it was ended by the instructions that it heard first
                    status = "no-answer"
                live.remove(last)
                answered.discard(last)
            elif _hangs_up(verb, received):
                status = "canceled"
                break
    finally:
        for sid in live:
            session.switchboard.hang_up(sid, "no-answer" if status == "no-answer" else "canceled")
    session.note("dialed", f"without an answer: {status}")
    return {"DialCallStatus": status, "DialCallSid": last, "DialBridged": "false"}


def _talk(session: Session, verb: Element, sid: str) -> Steps[Parameters]:
    """Talk to the other call until one side ends."""
    session.note("connected", f"to {session.switchboard.call(sid).to}", call=sid)
    started, is_over = session.now, False
    recorded: Parameters = {}
    try:
        is_over = yield from _until_gone(session, verb, sid)
    finally:
        if not is_over:
            session.switchboard.hang_up(sid)
        seconds = session.now - started
        if verb.get("record").startswith(("record-", "true")):
            channels = 2 if verb.get("record").endswith("dual") else 1
            recorded = session.save_recording("DialVerb", verb, started, channels)
    session.note("disconnected", f"after {seconds:.0f} s")
    return {
        "DialCallStatus": "completed",
        "DialCallSid": sid,
        "DialCallDuration": f"{seconds:.0f}",
        "DialBridged": "true",
        **recorded,
    }


def _until(session: Session, verb: Element, is_over: Callable[[Input], bool]) -> Steps[bool]:
    """Wait until the talk is over; return False if this call ends it, or its time has passed."""
    until = session.now + verb.number("timeLimit", DEFAULT_TIME_LIMIT)
    while (received := (yield until)) is not None:
        if is_over(received):
            return True
        if _hangs_up(verb, received):
            break
    return False


def _until_gone(session: Session, verb: Element, sid: str) -> Steps[bool]:
    """Talk until the other call ends or leaves, as `_until` does."""

    def is_gone(received: Input) -> bool:
        if not isinstance(received, Changed):
            return False
        return received.call.sid == sid and not received.call.live

    return _until(session, verb, is_gone)


def _hangs_up(verb: Element, received: object) -> bool:
    """Return whether the call ends the talk."""
    return received == Gone() or (verb.flag("hangupOnStar") and received == Pressed("*"))


def _address(noun: Element) -> str:
    identity = next((each.text for each in noun.children if each.name == "Identity"), noun.text)
    is_bare = noun.name == "Client" and not identity.startswith("client:")
    return f"client:{identity}" if is_bare else identity


def _with_urls(session: Session, noun: Element) -> Element:
    """Return the noun with absolute URLs."""
    urls = {name: session.callback(noun, name) for name in ("url", "statusCallback")}
    return replace(noun, attributes={**noun.attributes, **urls})


def _name(noun: Element) -> str:
    return _address(noun) or f"<{noun.name}>"


# Conferences and queues


def _dial_conference(session: Session, verb: Element, noun: Element) -> Steps[Parameters]:
    people = session.switchboard.join(session.sid, noun)
    if not people:
        session.note("skipped", f"the conference {noun.text}, which is full")
        return {"DialCallStatus": "failed"}
    session.note("joined", f"the conference {noun.text}", participants=str(people))
    started = session.now
    try:
        yield from _until(session, verb, lambda received: isinstance(received, Released))
    finally:
        session.switchboard.leave(session.sid)
    seconds = session.now - started
    session.note("left", f"the conference {noun.text} after {seconds:.0f} s")
    return {"DialCallStatus": "answered", "DialCallDuration": f"{seconds:.0f}"}


def _dial_queue(session: Session, verb: Element, noun: Element) -> Steps[Parameters]:
    """Talk to the first call in a queue."""
    session.note("dialed", f"the queue {noun.text}")
    session.switchboard.serve(session.sid, noun.text)
    until = session.now + verb.number("timeout", DIAL_TIMEOUT)
    try:
        while (first := (yield until)) is not None and not isinstance(first, Connected | Gone):
            pass
        if not isinstance(first, Connected):
            session.note("dialed", f"the queue {noun.text}, which is empty")
            return {"DialCallStatus": "no-answer"}
        return (yield from _talk_to_queued(session, verb, first.sid))
    finally:
        session.switchboard.leave(session.sid)


def _talk_to_queued(session: Session, verb: Element, sid: str) -> Steps[Parameters]:
    session.note("connected", f"to {session.switchboard.call(sid).from_}", call=sid)
    session.switchboard.watch(session.sid, sid)
    started = session.now
    try:
        yield from _until_gone(session, verb, sid)
    finally:
        session.switchboard.release(sid)
    seconds = session.now - started
    session.note("disconnected", f"after {seconds:.0f} s")
    return {"DialCallStatus": "completed", "DialCallSid": sid, "DialCallDuration": f"{seconds:.0f}"}


def _enqueue(session: Session, verb: Element) -> Steps[None]:
    queue = verb.text or next((child.text for child in verb.children), "")
    base, started = session.url, session.now
    position = session.switchboard.enqueue(
        session.sid, queue, verb.number("maxQueueSize", LONGEST_QUEUE)
    )
    described = {"QueueSid": f"QU{hashlib.sha256(queue.encode()).hexdigest()[:32]}"}
    if not position:
        session.note("skipped", f"the queue {queue}, which is full")
        session.proceed(verb, {**described, "QueueResult": "queue-full", "QueueTime": "0"})
        return
    session.note("queued", f"in {queue}", position=str(position))
    try:
        waiting = _listen(session, verb, queue, described)
        result = yield from _hold(session, waiting)
    finally:
        session.switchboard.leave(session.sid)
    seconds = f"{session.now - started:.0f}"
    session.note("left", f"the queue {queue} after {seconds} s")
    session.url = base
    session.proceed(verb, {**described, "QueueResult": result, "QueueTime": seconds})


def _hold(session: Session, waiting: Steps[None]) -> Steps[str]:
    """Execute what is heard in the queue until the call is served or leaves; return its result."""
    try:
        until = next(waiting)
        while not isinstance(received := (yield until), Connected):
            until = waiting.send(received)
        waiting.close()
        other = session.switchboard.call(received.sid)
        session.note("connected", f"to {other.to}", call=received.sid)
        yield from session.await_input((Released,))
    except LeaveQueue:
        return "leave"
    except Ended:
        return "hangup"
    finally:
        waiting.close()
    return "bridged"


def _listen(session: Session, verb: Element, queue: str, described: Parameters) -> Steps[None]:
    """Execute the document of `waitUrl` over and over."""
    if not verb.get("waitUrl"):
        session.note("played", "hold music")
        yield from session.wait(FOREVER)
    started, redirected = session.now, None
    first = Instructions(verb.get("waitUrl"), None, verb.method("waitUrlMethod"))
    first = first.resolved(session.url)
    while True:
        position, size = session.switchboard.position(session.sid, queue)
        parameters = {
            **described,
            "QueuePosition": str(position),
            "QueueTime": f"{session.now - started:.0f}",
            "CurrentQueueSize": str(size),
        }
        try:
            following = redirected or first
            parameters = {**parameters, **following.parameters}
            yield from session.execute(replace(following, parameters=parameters), _WAITING)
            redirected = None
        except Redirected as redirection:
            redirected = redirection.instructions


def _leave(session: Session, verb: Element) -> Steps[None]:  # noqa: ARG001 - a verb's signature
    raise LeaveQueue
    yield


VERBS: Mapping[str, Verb] = {**verbs.VERBS, "Dial": _dial, "Enqueue": _enqueue}
"""All verbs."""

_HEARD = ("Say", "Play", "Pause", "Gather", "Redirect", "Hangup")
_WAITING: Mapping[str, Verb] = {**{name: verbs.VERBS[name] for name in _HEARD}, "Leave": _leave}
"""The verbs that a call can execute in a queue."""


def run_instructions(sid: str, leg: Leg, switchboard: Switchboard) -> Steps[None]:
    """Execute the instructions of a call. A dialed party can't dial before it is connected."""
    return Session(sid, leg, switchboard, verbs.VERBS if leg.is_dialed else VERBS).run()
