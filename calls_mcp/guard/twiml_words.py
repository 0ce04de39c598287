"""TwiML in plain sentences, for the person who decides about a call (`words` in twiml.toml)."""

import string
from collections.abc import Iterator, Mapping

from calls_mcp.guard.twiml_document import Element, MalformedTwiml, element_types, parse_twiml
from calls_mcp.observability.redaction import escape_invisible
from calls_mcp.tools.humanize import duration, exactly, shown

_HANGS_UP = "Then it hangs up."
_CHILDREN = "children"
_ENDED = ('."', '!"', '?"')


def in_words(twiml: str) -> tuple[str, ...]:
    """Return sentences about what a document does, in order; none if it is malformed."""
    try:
        root = parse_twiml(twiml)
    except MalformedTwiml:
        return ()
    sentences: list[str] = []
    for verb in _elements_in(root):
        found = [*_sentences(verb)]
        sentences += found
        if found and (known := element_types().get(verb.name)) and known.ends:
            return tuple(sentences)
    return (*sentences, _HANGS_UP if sentences else "It hangs up immediately.")


def _sentences(element: Element, *, is_named: bool = False) -> Iterator[str]:
    """Yield the sentences about an element. Those about elements in it come first.

    `is_named` says that the sentence about its parent already names it.
    """
    text = "" if is_named else _phrase(element)
    for child in _elements_in(element):
        yield from _sentences(child, is_named=_names_children(element))
    if text:
        yield text if text.endswith(_ENDED) else f"{text}."


def _phrase(element: Element) -> str:
    known = element_types().get(element.name)
    if known is None:
        return f"It runs <{escape_invisible(element.name)}>, which this server does not know"
    values = {name: _without_gaps(text) for name, text in element.attributes.items()}
    values["text"] = _spoken(element)
    if _names_children(element):
        phrases = filter(None, map(_phrase, _elements_in(element)))
        values[_CHILDREN] = " and ".join(phrases)
    return "".join(_clauses(known.words, {name: text for name, text in values.items() if text}))


def _names_children(element: Element) -> bool:
    known = element_types().get(element.name)
    return known is not None and any(f"{{{_CHILDREN}:" in clause for clause in known.words)


def _clauses(clauses: tuple[str, ...], values: Mapping[str, str]) -> Iterator[str]:
    is_first = True
    for clause in clauses:
        fields = [name for _, name, _, _ in string.Formatter().parse(clause) if name]
        is_useless = ":times}" in clause if is_first else not fields
        if all(name in values for name in fields) and not is_useless:
            stop = "" if is_first or not clause[0].isupper() else ". "
            yield stop + _Formatter().vformat(clause, (), values)
            is_first = False


class _Formatter(string.Formatter):
    """Formats a value as a `number`, in `seconds` or `times`, as a `phrase`, or else in quotes."""

    def format_field(self, value: str, format_spec: str) -> str:
        is_count = value.isascii() and value.isdigit()
        match format_spec:
            case "seconds" if is_count:
                return duration(int(value))
            case "times" if is_count:
                return {0: "again and again", 1: "once"}.get(int(value), f"{int(value)} times")
            case "number":
                return shown(value)
            case "phrase":
                return value
            case _:
                return exactly(value)


def _spoken(element: Element) -> str:
    """Return all text in an element, with single spaces."""
    return _without_gaps("".join(_texts(element)))


def _without_gaps(text: str) -> str:
    return " ".join(text.split())


def _texts(element: Element) -> Iterator[str]:
    for part in element.content:
        if isinstance(part, str):
            yield part
        elif (known := element_types().get(part.name)) and not known.words:
            yield from _texts(part)  # markup of speech


def _elements_in(element: Element) -> Iterator[Element]:
    return (part for part in element.content if isinstance(part, Element))
