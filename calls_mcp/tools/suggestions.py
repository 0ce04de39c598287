"""Suggestions for misspelled names and values: only what has the same meaning."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import date, timedelta
from difflib import SequenceMatcher
from urllib.parse import quote, unquote

import idna

from calls_mcp.observability.redaction import first_invisible
from calls_mcp.tools.catalog import Json, Operation, Parameter

_LONGEST_NAME = 64  # characters
LONGEST_NATIONAL_NUMBER = 10  # digits
_SAME_WORD = 0.85  # similarity of a choice and its misspelling
_NEGATIONS = frozenset(
    {
        *("no", "not", "non", "none", "never", "nor", "without", "except", "but", "exclude"),
        *("dont", "don't", "isnt", "isn't", "off", "false"),
    }
)
_PLAIN = re.compile(r"[\w\s'-]+")  # other characters can negate
_SEPARATORS = re.compile(r"[\s_-]+")
_ENDING = re.compile(r"(?:ing|ed|ation|e?s|e)$")
_USER_AT_HOST = re.compile(
    r"(?!client:)(sips?:)?(?!sips?:)([^@:;]+)(?:[:;][^@]*)?@(.+)", re.IGNORECASE
)
_ADDRESSES = ("To", "From")  # only the user knows the country code of a number without +
_COMPARISON = re.compile(r"\s*([<>])=?$")
_URL = re.compile(r"(https?://)([^/?#]*@)?([^/?#]*)(.*)", re.IGNORECASE)
_NOT_ALLOWED = re.compile(r"[^!-~]|\\")
_TO_ENCODE = re.compile(r"[^!-~]|%(?![0-9A-Fa-f]{2})")


def suggested_name(operation: Operation, name: str) -> str:
    """Return the argument that `name` is probably meant to be, or an empty string."""
    spellings = {p.wire.casefold(): p.name for p in operation.parameters.values() if p.wire}
    spellings |= {p.replace("_", ""): p for p in operation.parameters}
    folded = _COMPARISON.sub(r"\1", unquote(name[:_LONGEST_NAME]).casefold())
    plain = folded.replace("_", "").replace("-", "")
    for spelling in (folded, plain, plain.removeprefix("call")):
        if spelling in spellings:
            return spellings[spelling]
    return _closest(folded, operation.parameters) or ""


def suggested_values(parameter: Parameter, text: str) -> Iterator[Json]:
    """Yield the values that `text` may be meant to be, best guesses first. They may be invalid."""
    yield text
    if text.isascii() and text.isdigit():
        yield int(text)
    yield {"true": True, "false": False}.get(text.casefold())
    choices = [str(choice) for choice in parameter.choices]
    yield _closest(text, choices)
    if parameter.type.asserts.get("format") == "date-or-time":
        yield from (f"{text}Z", text.replace("/", "-"), text.replace(" ", "T"))
        yield from _end_of_day(text)
        sign = {"_before": "<", "_after": ">"}.get(parameter.name[parameter.name.rfind("_") :])
        if sign and text[0] == sign:
            yield text.lstrip(f"{sign}= ")
    if parameter.type.asserts.get("format") == "http-url":
        with suppress(ValueError):
            yield _ascii_url(text)
    bare = text.replace("(0)", "").translate(dict.fromkeys(map(ord, " ().-/")))
    if text.startswith("-"):  # perhaps an exclusion
        return
    if bare.isdigit() and len(bare) > LONGEST_NATIONAL_NUMBER:  # it has a country code
        yield f"+{bare}"
    if bare.removeprefix("+").isdigit() and (bare[0] == "+" or parameter.wire not in _ADDRESSES):
        yield bare
    if address := _USER_AT_HOST.fullmatch(text):
        scheme, user, host = address.groups()
        yield from (f"{scheme or ''}{user}@{host}", user)


def suggested_list(parameter: Parameter, items: str | Sequence[str]) -> list[Json]:
    """Return the choices that `items` are meant to be, or none if one is not a choice."""
    words = items.replace(",", " ").split() if isinstance(items, str) else items
    choices = [str(choice) for choice in parameter.choices]
    closest = [_closest(word, choices) for word in words]
    return [choice for choice in closest if choice] if all(closest) else []


def instead_of_character(text: str) -> str:
    """Return what to send instead of the first character that URLs must not contain.

    Return an empty string if there is no such character, or if `text` is not a URL at all.
    """
    url, found = _URL.fullmatch(text), _NOT_ALLOWED.search(text)
    if not url or not found:
        return ""
    character = found[0]
    in_host = url.start(3) <= found.start() < url.end(3)
    if character == "\\" or (in_host and character.isascii()):
        return f'without "{character}"'
    if in_host:
        return f'with the host name in Punycode (xn--) instead of "{character}"'
    return f'with {quote(character, errors="replace")} instead of "{character}"'


def _ascii_url(text: str) -> str:
    """Return a URL in ASCII: its host name in Punycode, and the rest percent-encoded.

    Raises:
        ValueError: `text` is not a URL, or has an invisible character or no valid host name.
    """
    url = _URL.fullmatch(text)
    if not url or first_invisible(text):
        raise ValueError("not a URL that can be written in ASCII")
    scheme, user, place, rest = url.groups(default="")
    if not place.isascii():
        host, colon, port = place.partition(":")
        place = idna.encode(host, uts46=True).decode() + colon + port
    return f"{scheme.lower()}{_encoded(user)}{place}{_encoded(rest)}"


def _encoded(text: str) -> str:
    return _TO_ENCODE.sub(lambda found: quote(found[0]), text)


def _end_of_day(text: str) -> Iterator[str]:
    """Yield 24:00, which ISO 8601 allows, as 00:00 of the next day."""
    if text[10:16] == "T24:00":
        with suppress(ValueError, OverflowError):
            yield f"{date.fromisoformat(text[:10]) + timedelta(days=1)}T00:00{text[16:]}"


def _closest(text: str, choices: Iterable[str]) -> str | None:
    """Return the choice that `text` probably misspells, unless it may mean the opposite."""
    if not _PLAIN.fullmatch(text):
        return None
    words = _words(text)
    alike = {c: _similarity(words, _words(c)) for c in choices}
    best = max(alike, key=lambda choice: alike[choice], default="")
    return best if best and alike[best] else None


def _words(text: str) -> list[str]:
    return _SEPARATORS.split(text.casefold())


def _negations(words: Iterable[str]) -> int:
    return sum(1 for word in words if word in _NEGATIONS)


def _similarity(words: Sequence[str], others: Sequence[str]) -> float:
    """Return how similar they are, from 0 to 1; 0 if they could differ in their meaning."""
    if "".join(words) == "".join(others) and all(words):
        return 1
    if len(words) != len(others) or _negations(words) != _negations(others):
        return 0
    return min(_word_similarity(*pair) for pair in zip(words, others, strict=True))


def _word_similarity(word: str, other: str) -> float:
    """Return how similar two words are; 0 if their first letters differ, as in negations."""
    if not word or not other or word[0] != other[0]:
        return 0
    if _ENDING.sub("", word) == _ENDING.sub("", other):
        return _SAME_WORD
    if abs(len(word) - len(other)) > 1:  # longer than a slip, such as a prefix
        return 0
    ratio = SequenceMatcher(None, word, other).ratio()
    return ratio if ratio >= _SAME_WORD else 0
