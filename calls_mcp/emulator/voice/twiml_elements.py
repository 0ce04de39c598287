"""TwiML documents: the elements that the emulator knows, and the parser.

Sources: https://www.twilio.com/docs/voice/twiml and https://www.twilio.com/docs/api/errors.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from xml.etree import ElementTree as ET

PARSE_FAILURE = 12100
SCHEMA_WARNING = 12200
LARGEST = 65_536  # bytes of a document
LARGEST_NUMBER = 1_000_000


class InstructionError(Exception):
    """The instructions of a call cannot be fetched or executed.

    Attributes:
        code: Twilio's error code.
        message: What is wrong.
        url: The document, empty for the TwiML of a request.
    """

    def __init__(self, code: int, message: str, url: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.url = url


@dataclass(frozen=True)
class Known:
    """What the emulator does with an element.

    Attributes:
        executed: The attributes that have an effect.
        accepted: The attributes that are valid, and have no effect here.
        available: Whether the element itself is executed.
    """

    executed: str = ""
    accepted: str = ""
    available: bool = True


_CALLBACK = "statusCallback statusCallbackEvent statusCallbackMethod"
_RECORDED = "recordingStatusCallback recordingStatusCallbackEvent recordingStatusCallbackMethod"
_NOUN = f"url method {_CALLBACK}"
_DETECTION = (
    "machineDetection machineDetectionTimeout machineDetectionSpeechThreshold"
    " machineDetectionSpeechEndThreshold machineDetectionSilenceTimeout amdStatusCallback"
    " amdStatusCallbackMethod"
)
_SPOKEN: Mapping[str, Known] = {
    "Say": Known("loop language voice"),
    "Play": Known("loop digits"),
    "Pause": Known("length"),
}

ELEMENTS: Mapping[str, Known] = {
    **_SPOKEN,
    "Gather": Known(
        "action method timeout numDigits finishOnKey input actionOnEmptyResult",
        "speechTimeout language hints bargeIn profanityFilter partialResultCallback"
        " partialResultCallbackMethod speechModel enhanced dtmfDetection debug",
    ),
    **{f"Gather/{name}": known for name, known in _SPOKEN.items()},
    "Record": Known(
        f"action method timeout finishOnKey maxLength {_RECORDED}",
        "playBeep trim recordingTrack transcribe transcribeCallback",
    ),
    "Dial": Known(
        f"action method timeout timeLimit hangupOnStar callerId record sequential {_RECORDED}",
        "answerOnBridge ringTone trim recordingTrack referUrl referMethod events",
    ),
    "Dial/Number": Known(f"{_NOUN} sendDigits", f"phoneNumberSid byoc callReason {_DETECTION}"),
    "Dial/Client": Known(_NOUN, _DETECTION),
    "Dial/Client/Identity": Known(),
    "Dial/Client/Parameter": Known("", "name value"),
    "Dial/Sip": Known(_NOUN, f"username password codecs {_DETECTION}"),
    "Dial/Conference": Known(
        "endConferenceOnExit maxParticipants",
        "startConferenceOnEnter muted beep waitUrl waitMethod record region trim coach"
        f" participantLabel jitterBufferSize eventCallbackUrl {_CALLBACK} {_RECORDED}",
    ),
    "Dial/Queue": Known("", "url method reservationSid postWorkActivitySid"),
    "Dial/Sim": Known(available=False),
    "Dial/Application": Known(available=False),
    "Dial/WhatsApp": Known(available=False),
    "Enqueue": Known("action method waitUrl waitUrlMethod maxQueueSize", "workflowSid"),
    "Enqueue/Task": Known("", "priority timeout"),
    "Leave": Known(),
    "Redirect": Known("method"),
    "Reject": Known("reason"),
    "Hangup": Known(),
    "Refer": Known("action method"),
    "Refer/Sip": Known(),
    "Refer/ReferSip": Known(),
    "Connect": Known("action method"),
    "Connect/Stream": Known("", "url name track statusCallback statusCallbackMethod"),
    "Connect/Stream/Parameter": Known("", "name value"),
    **{
        f"Connect/{name}": Known(available=False)
        for name in (
            "Assistant",
            "AiSession",
            "Autopilot",
            "Conversation",
            "ConversationRelay",
            "ConversationRelaySession",
            "Room",
            "VirtualAgent",
        )
    },
    **{name: Known(available=False) for name in ("Start", "Stop", "Pay", "Prompt", "Sms", "Echo")},
}
"""The elements below `<Response>`, by their path. The table in docs/emulator.md comes from here."""


@dataclass(frozen=True)
class Element:
    """An element of a document.

    Attributes:
        name: Its name, such as `Say`.
        attributes: Its attributes.
        text: Its text, and that of its descendants, without surrounding and repeated white space.
        children: The elements in it.
        warnings: What is wrong with it, although it can be executed.
    """

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    text: str = ""
    children: tuple["Element", ...] = ()
    warnings: tuple[str, ...] = ()

    def get(self, name: str, default: str = "") -> str:
        """Return an attribute, or the default if it is missing or empty."""
        return self.attributes.get(name) or default

    def number(self, name: str, default: int) -> int:
        """Return a whole number up to a million, or the default if there is none."""
        text = self.get(name)
        return min(int(text), LARGEST_NUMBER) if re.fullmatch("[0-9]{1,99}", text) else default

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean."""
        return self.get(name, str(default)).lower() == "true"

    def method(self, name: str = "method") -> Literal["GET", "POST"]:
        """Return an HTTP method; the default is POST."""
        return "GET" if self.get(name).upper() == "GET" else "POST"


def warnings(element: Element) -> Iterator[str]:
    """Yield what is wrong with an element and those in it, although they can be executed."""
    yield from element.warnings
    for child in element.children:
        yield from warnings(child)


class _Builder(ET.TreeBuilder):
    def doctype(self, name: str, *_: object) -> None:
        """Refuse a DOCTYPE, which TwiML does not need and which can define entities."""
        raise InstructionError(PARSE_FAILURE, f"The document has a DOCTYPE: {name}.")


def parse(text: str | bytes) -> tuple[Element, ...]:
    """Return the verbs of a document.

    Raises:
        InstructionError: It is not XML, has no `<Response>`, or has an element that TwiML lacks.
    """
    if len(text.encode() if isinstance(text, str) else text) > LARGEST:
        raise InstructionError(11750, f"The document has more than {LARGEST} bytes.")
    try:
        root = ET.fromstring(text, ET.XMLParser(target=_Builder()))  # noqa: S314 - without entities
    except (ET.ParseError, ValueError, LookupError) as error:  # LookupError: unknown encoding
        raise InstructionError(PARSE_FAILURE, f"The document is not XML: {error}.") from error
    if root.tag != "Response":
        raise InstructionError(PARSE_FAILURE, f"The root is <{root.tag}>, not <Response>.")
    return tuple(_elements(root, ""))


def _elements(parent: "ET.Element[str]", path: str) -> Iterator[Element]:
    for node in parent:
        here = f"{path}{node.tag}"
        known = ELEMENTS.get(here)
        if known is None:
            where = f" in <{parent.tag}>" if path else ""
            raise InstructionError(SCHEMA_WARNING, f"<{node.tag}> is not valid{where}.")
        # Say contains SSML, and its text is all that matters
        is_leaf = node.tag == "Say" or not known.available
        children = () if is_leaf else tuple(_elements(node, f"{here}/"))
        text = " ".join("".join(node.itertext()).split())
        yield Element(node.tag, dict(node.attrib), text, children, tuple(_unknown(node, known)))


def _unknown(node: "ET.Element[str]", known: Known) -> Iterator[str]:
    """Yield a warning for each attribute that an element does not have."""
    attributes = {*known.executed.split(), *known.accepted.split()}
    for name in node.attrib.keys() - attributes if known.available else ():
        yield f"<{node.tag}> has no attribute {name}"
