"""Parse TwiML strictly, and find the kind of each value in it (`config/twiml.toml`)."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal
from xml.parsers.expat import ExpatError, ParserCreate

from pydantic import TypeAdapter

from calls_mcp.observability.redaction import MASK
from calls_mcp.tools.catalog import CONFIG

Kind = Literal[
    "caller_id",
    "client",
    "header_name",
    "header_value",
    "keys",
    "malformed",
    "message_to",
    "other_party",
    "phone_number",
    "plain",
    "recording",
    "sip_address",
    "speech",
    "time_limit",
    "timeout",
    "unknown",
    "url",
    "websocket_url",
]
# What is dialed.
PARTIES: frozenset[Kind] = frozenset({"client", "other_party", "phone_number", "sip_address"})
# Unchanged: a caller ID must be exactly an allowed one, and a line break could begin a header.
_EXACT: frozenset[Kind] = frozenset({"caller_id", "header_name", "header_value"})
_WITH_PASSWORD = frozenset({"Sip", "Uri"})
# Start tags are well-formed, so each attribute begins where the one before it ends.
_TAG = re.compile(rb"""<[^\s/>]+(?:\s+[^\s=]+\s*=\s*(?:"[^"]*"|'[^']*'))*""")
_ATTRIBUTE = re.compile(rb"""(\s([^\s=]+)\s*=\s*)(?:"[^"]*"|'[^']*')""")
_BUFFER = 2**16  # characters
_WHITESPACE = " \t\r\n"  # of XML


class MalformedTwiml(ValueError):
    """The text is not a TwiML document."""


@dataclass(frozen=True, slots=True)
class Element:
    """An element; `content` has its texts and child elements in their order."""

    name: str
    attributes: Mapping[str, str]
    content: tuple["Element | str", ...]

    @property
    def text(self) -> str:
        """Return the text directly in it, without the space around it."""
        return "".join(c for c in self.content if isinstance(c, str)).strip(_WHITESPACE)

    @property
    def is_split(self) -> bool:
        """Return whether a comment, an instruction or an element divides its text."""
        texts = [c for c in self.content if isinstance(c, str) and c.strip(_WHITESPACE)]
        return len(texts) > 1

    def walk(self) -> Iterator["Element"]:
        """Yield it and all elements in it, in document order."""
        pending = [self]
        while pending:
            element = pending.pop()
            yield element
            pending += [c for c in reversed(element.content) if isinstance(c, Element)]


@dataclass(frozen=True, slots=True)
class Value:
    """An attribute or text of a document: its kind, and its `place` in the document.

    If `is_default`, the attribute is absent, and `text` is its default.
    """

    kind: Kind
    text: str
    place: str
    is_default: bool = False


def parse_twiml(twiml: str) -> Element:
    """Return the root of a document. Nothing outside of it is resolved.

    Raises:
        MalformedTwiml: It is not well-formed, not TwiML, or has a DOCTYPE or another encoding.
    """
    try:
        return _Parser().parse(twiml)
    except (ExpatError, UnicodeEncodeError) as error:
        raise MalformedTwiml(str(error)) from error


def without_passwords(twiml: str) -> str:
    """Return a document with the passwords of its SIP addresses masked; unchanged if malformed.

    Only `password` attributes are masked, because they are never dialed or heard.
    """
    parser = _Parser()
    try:
        parser.parse(twiml)
    except (ExpatError, UnicodeEncodeError, MalformedTwiml):
        return twiml
    data = twiml.encode()
    for start in reversed(parser.passwords):
        tag = _TAG.match(data, start)
        if tag:
            masked = _ATTRIBUTE.sub(_without_password, tag[0])
            data = data[:start] + masked + data[tag.end() :]
    return data.decode()


def _without_password(attribute: re.Match[bytes]) -> bytes:
    return attribute[1] + f'"{MASK}"'.encode() if attribute[2] == b"password" else attribute[0]


@lru_cache(maxsize=8)  # the policy, the limits and the preview all read the TwiML of a change
def read_values(twiml: str) -> tuple[Value, ...]:
    """Return everything in a document that is not `plain`, and the defaults of absent attributes.

    An empty attribute counts as absent. A document that is malformed has one value of that kind,
    whose text says why.
    """
    try:
        return tuple(_values(parse_twiml(twiml)))
    except MalformedTwiml as wrong:
        return (Value("malformed", str(wrong), ""),)


def dialed_at_once(twiml: str) -> int:
    """Return how many parties a document dials at the same time; 0 if it is malformed."""
    try:
        elements = parse_twiml(twiml).walk()
    except MalformedTwiml:
        return 0
    return max((_dialed_by(each) for each in elements if each.name == "Dial"), default=0)


def _dialed_by(dial: Element) -> int:
    parties = [value for value in _values(dial) if value.kind in PARTIES]
    is_sequential = dial.attributes.get("sequential", "").strip(_WHITESPACE).lower() == "true"
    return min(len(parties), 1) if is_sequential else len(parties)


def _values(root: Element) -> Iterator[Value]:
    parents = {id(part): each.name for each in root.walk() for part in each.content}
    for element in root.walk():
        known = element_types().get(element.name)
        if known is None:
            yield Value("unknown", "", f"<{element.name}>")
            continue
        if known.records and parents.get(id(element)) not in ("Stop", known.two_way):
            yield Value("recording", element.name, f"<{element.name}>")
        if element.is_split and known.text not in ("plain", "speech"):
            # Some readers use the whole text, others only a part of it.
            yield Value("unknown", element.text, f"<{element.name}>")
        if element.text:
            yield Value(known.text, element.text, f"<{element.name}>")
        yield from _attributes(element, known)


def _attributes(element: Element, known: "ElementType") -> Iterator[Value]:
    given = {name: text.strip(_WHITESPACE) for name, text in element.attributes.items()}
    for name, text in given.items():
        kind = known.attributes.get(name, "unknown")
        if kind in _EXACT:
            yield Value(kind, element.attributes[name], f"{name} of <{element.name}>")
        elif kind == "unknown" or (text and kind != "plain"):
            yield Value(kind, text, f"{name} of <{element.name}>")
    for name, text in known.defaults.items():
        if not given.get(name):
            place = f"the default {name} of <{element.name}>"
            yield Value(known.attributes[name], text, place, is_default=True)


@dataclass(frozen=True, slots=True)
class ElementType:
    """What the table says about an element; `words` and `ends` as `twiml_words.py` uses them."""

    text: Kind
    records: bool
    two_way: str
    attributes: Mapping[str, Kind]
    defaults: Mapping[str, str]
    words: tuple[str, ...]
    ends: bool


@cache
def element_types() -> Mapping[str, ElementType]:
    """Return the table of all known elements, by name."""
    tables = tomllib.loads((CONFIG / "twiml.toml").read_text("utf-8"))
    rows = TypeAdapter(
        dict[str, dict[str, str | bool | list[str] | dict[str, str]]]
    ).validate_python(tables)
    kinds = TypeAdapter[dict[str, Kind]](dict[str, Kind])
    types: dict[str, ElementType] = {}
    for name, row in rows.items():
        lists = {kind: names for kind, names in row.items() if isinstance(names, list)}
        words = tuple(lists.pop("words", ()))
        attributes = {attribute: kind for kind, names in lists.items() for attribute in names}
        text = {"text": row.get("text", "unknown")}
        types[name] = ElementType(
            text=kinds.validate_python(text)["text"],
            records=bool(row.get("records")),
            two_way=str(row.get("two_way", "")),
            attributes=kinds.validate_python(attributes),
            defaults=defaults if isinstance(defaults := row.get("defaults"), dict) else {},
            words=words,
            ends=bool(row.get("ends")),
        )
    return types


class _Parser:
    """Builds the tree of a document from the parser's events.

    `passwords` has the offsets, in bytes of UTF-8, of the start tags with a password.
    """

    def __init__(self) -> None:
        self.passwords: list[int] = []
        self._parser = ParserCreate()
        self._root: Element | None = None
        self._open: list[tuple[dict[str, str], list[Element | str]]] = []

    def parse(self, twiml: str) -> Element:
        parser = self._parser
        parser.XmlDeclHandler = self._declare
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.CharacterDataHandler = self._data
        parser.CommentHandler = parser.ProcessingInstructionHandler = self._ignore
        parser.StartCdataSectionHandler = parser.EndCdataSectionHandler = self._ignore
        parser.buffer_text, parser.buffer_size = True, _BUFFER  # adjacent text in one piece
        parser.EndElementHandler = self._end
        parser.Parse(twiml, True)  # noqa: FBT003  # it has no name
        if self._root is None:
            raise MalformedTwiml("no element found")
        return self._root

    def _declare(self, _version: str, encoding: str | None, _standalone: int) -> None:
        # Read in another encoding, the same bytes could be other markup.
        if encoding is not None and encoding.upper() not in ("UTF-8", "US-ASCII"):
            raise MalformedTwiml("its encoding is not UTF-8")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name != "Response":
            raise MalformedTwiml("the root element is not Response")
        if name in _WITH_PASSWORD and "password" in attributes:
            self.passwords.append(self._parser.CurrentByteIndex)
        self._open.append((attributes, []))

    def _data(self, text: str) -> None:
        self._open[-1][1].append(text)

    def _end(self, name: str) -> None:
        attributes, content = self._open.pop()
        element = Element(name, attributes, tuple(content))
        if self._open:
            self._open[-1][1].append(element)
        else:
            self._root = element

    def _ignore(self, *_text: str) -> None:
        """Do nothing. The parser calls this after it has reported the text before it."""

    def _refuse(self, *_declaration: object) -> None:
        raise MalformedTwiml("it has a DOCTYPE")
