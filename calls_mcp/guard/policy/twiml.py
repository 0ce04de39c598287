"""What the operator's rules have against TwiML: what it says, links to, dials and records."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.parsers.expat import ExpatError, ParserCreate

from calls_mcp.guard.policy.destinations import matches_any, object_to_destination
from calls_mcp.guard.policy.rules import CallerIds, Destinations, Objection, Policy, Urls
from calls_mcp.guard.policy.urls import object_to_host
from calls_mcp.observability.redaction import quoted
from calls_mcp.tools.catalog import address_kind

_LINK = re.compile(r"""(?:(?:https?|wss?):|^\s*/)[/\\][^\s<>"']*""", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s().-]+")
_NUMBER = re.compile(r"\+[1-9][0-9]{1,14}")
_MESSAGES = frozenset({"Message", "Sms"})
_RECORDING = frozenset({"Record", "Recording", "Siprec", "Transcription"})
_TOLD = frozenset({"Say", "Message", "Sms", "Body"})  # a link in their text is never followed
_NOT_RECORDING = frozenset({"", "false", "do-not-record"})


@dataclass(frozen=True, slots=True)
class _Element:
    """An element, and the text directly in it."""

    name: str
    attributes: Mapping[str, str]
    text: str


def object_to_twiml(policy: Policy, twiml: str) -> Iterator[Objection]:
    """Yield what `policy` has against TwiML that is given as an argument."""
    try:
        elements = _Reader().read(twiml)
    except (ExpatError, ValueError) as wrong:
        reason = f"twiml is not well-formed TwiML ({wrong})"
        hint = "Send one <Response> element of well-formed XML, without DOCTYPE or entities."
        yield Objection("twiml.well_formed", reason, hint)
        return
    for element in elements:
        yield from _object_to_links(policy.urls, element)
        yield from _object_to_dialling(policy.destinations, element)
        yield from _object_to_caller(policy.caller_ids, element)
        if not policy.caps.record and _records(element):
            hint = "Leave recording out, or ask the operator to allow it."
            yield Objection("caps.record", "it does not allow calls to be recorded", hint)


def _object_to_links(rules: Urls, element: _Element) -> Iterator[Objection]:
    texts = [(text, not name.startswith("xmlns")) for name, text in element.attributes.items()]
    texts.append((element.text, element.name not in _TOLD))
    for text, is_followed in texts:
        for link in _links(text):
            yield from object_to_host(rules, "twiml", link)
            if rules.https_only and is_followed and link.lower().startswith(("http:", "ws:")):
                reason = f"twiml has the link {quoted(link, 64)}, which is neither https nor wss"
                yield Objection("urls.https_only", reason, "Use https or wss.")


def _object_to_dialling(rules: Destinations, element: _Element) -> Iterator[Objection]:
    address = _dialled(element)
    if not address:
        return
    if address_kind(address) is None or (address[0] == "+" and not _NUMBER.fullmatch(address)):
        reason = f"twiml dials {quoted(address, 64)}, which is not in E.164 form"
        hint = "Write the number with + and country code."
        yield Objection("destinations.twiml", reason, hint)
        return
    for objection in object_to_destination(rules, address):
        reason = f"twiml dials {quoted(address, 64)}: {objection.reason.removeprefix('to is ')}"
        yield Objection(objection.rule, reason, objection.hint)


def _object_to_caller(rules: CallerIds, element: _Element) -> Iterator[Objection]:
    caller_id = element.attributes.get("callerId", "")
    if caller_id and rules.allow and not matches_any(rules.allow, caller_id):
        reason = f"twiml shows the caller id {quoted(caller_id, 64)}, which it does not allow"
        hint = "Leave callerId out, or ask the operator to allow it."
        yield Objection("caller_ids.allow", reason, hint)


def dialled(twiml: str) -> list[str]:
    """Return whom TwiML calls, in the form of `to`; nobody if it can't be read."""
    try:
        elements = _Reader().read(twiml)
    except (ExpatError, ValueError):
        return []
    return [address for element in elements if (address := _dialled(element))]


def _dialled(element: _Element) -> str:
    """Return whom an element calls, in the form of `to`; empty if nobody."""
    text = element.text.strip()
    if element.name in _MESSAGES:
        return element.attributes.get("to", "")
    if not text:
        return ""
    match element.name:
        case "Dial" | "Number":
            return _SEPARATORS.sub("", text)
        case "Sip" | "WhatsApp":
            return text.removeprefix("whatsapp:")
        case "Client" | "Identity":
            return f"client:{text}"
        case _:
            return ""


def _records(element: _Element) -> bool:
    if element.name in _RECORDING:
        return True
    return element.attributes.get("record", "").lower() not in _NOT_RECORDING


def _links(text: str) -> Iterator[str]:
    return (match[0].rstrip(".,;:!?)") for match in _LINK.finditer(text))


class _Reader:
    """Reads a document element by element, and resolves nothing."""

    def __init__(self) -> None:
        self._elements: list[_Element] = []
        self._open: list[tuple[dict[str, str], list[str]]] = []

    def read(self, twiml: str) -> Sequence[_Element]:
        """Return the elements of a document, in the order in which they end.

        Raises:
            ExpatError: It is not well-formed.
            ValueError: It is not TwiML, or it declares a DOCTYPE or another encoding.
        """
        parser = ParserCreate()
        parser.XmlDeclHandler = self._declare
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.CharacterDataHandler = self._data
        parser.EndElementHandler = self._end
        parser.Parse(twiml, True)  # noqa: FBT003  # it has no name
        return self._elements

    def _declare(self, _version: str, encoding: str | None, _standalone: int) -> None:
        # Read in another encoding, the same bytes could be other markup.
        if encoding is not None and encoding.upper() not in ("UTF-8", "US-ASCII"):
            raise ValueError("its encoding is not UTF-8")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name != "Response":
            raise ValueError("the root is not Response")
        self._open.append((attributes, []))

    def _data(self, text: str) -> None:
        self._open[-1][1].append(text)

    def _end(self, name: str) -> None:
        attributes, texts = self._open.pop()
        self._elements.append(_Element(name, attributes, "".join(texts)))

    def _refuse(self, *_declaration: object) -> None:
        raise ValueError("it has a DOCTYPE")
