"""A JSON file with or without comments, changed in place: what is not changed stays as it is.

Comments and trailing commas are looked away from by putting spaces in their place; then the
standard library reads it, and every position it finds is one in the file.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecodeError
from typing import cast

from calls_mcp.catalog import Json

# What never ends is one token as well, lest its end be looked for again and again.
_STRING = r'"(?:[^"\\]|\\.)*+"?'
_TOKENS = re.compile(rf"{_STRING}|//[^\r\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_TRAILING = re.compile(rf"({_STRING})|,(?=\s*+[}}\]])", re.DOTALL)
_INDENT = "  "


class DocumentError(ValueError):
    """The text is no JSON object, or can't be changed without losing something. It says why."""


@dataclass(frozen=True, slots=True)
class _Member:
    """Where a value is, and where its text begins: with its key, or itself in an array."""

    key: str | None
    begin: int
    start: int
    end: int


class Document:
    """The text of a file of JSON."""

    def __init__(self, text: str) -> None:
        """Read it.

        Raises:
            DocumentError: It is no JSON object.
        """
        self.text = text if text.strip() else "{}\n"
        self._plain = _without_comments(self.text)
        try:
            value: object = json.loads(self._plain)
        except JSONDecodeError as wrong:
            raise DocumentError(f"is not JSON (line {wrong.lineno}: {wrong.msg})") from None
        except (ValueError, RecursionError):
            raise DocumentError("is not JSON (too large or too deep)") from None
        if not isinstance(value, dict):
            raise DocumentError("is not a JSON object")
        self.value = cast("dict[str, Json]", value)

    @property
    def comments(self) -> list[str]:
        """Every comment in it."""
        return [*_comments(self.text)]

    def with_member(self, path: tuple[str, ...], value: Json) -> "Document":
        """The document with `value` at the end of `path`, whose objects are made where need be.

        Raises:
            DocumentError: Something on the path is no object, or comments would be lost.
        """
        expected = _put(self.value, path, value)
        if json.dumps(expected) == json.dumps(self.value):
            return self
        return self._checked(self._placed(self._after_space(0), path, value), expected)

    def with_items(self, key: str, items: list[Json]) -> "Document":
        """The document with `items` behind those of the array that `key` has, made where need be.

        Raises:
            DocumentError: `key` has something else.
        """
        there = self.value.get(key, [])
        if not isinstance(there, list):
            raise DocumentError(f"has something else than an array as {key}")
        if not there:
            return self.with_member((key,), items)
        document = self
        for number, item in enumerate(items, 1):
            expected: list[Json] = [*there, *items[:number]]
            made = document._appended(key, item)
            document = document._checked(made, {**self.value, key: expected})
        return document

    def _appended(self, key: str, item: Json) -> str:
        """The text with `item` behind the others of the array that is under `key`."""
        start = next(m.start for m in [*self._members(self._after_space(0))][::-1] if m.key == key)
        return self._inserted(start, [*self._members(start)], None, item)

    def _placed(self, start: int, path: tuple[str, ...], value: Json) -> str:
        """The text with `value` at the end of `path` in the object that starts there."""
        key, rest = path[0], path[1:]
        members = [*self._members(start)]
        found = next((member for member in reversed(members) if member.key == key), None)
        if found is None:
            return self._inserted(start, members, key, _nested(rest, value))
        if rest:
            return self._placed(found.start, rest, value)
        shown = self._shown(value, self._indent_at(found.begin))
        return self.text[: found.start] + shown + self.text[found.end :]

    def _members(self, start: int) -> Iterator[_Member]:
        """The members of the object, or the items of the array, that starts there."""
        decoder, position = json.JSONDecoder(), self._after_space(start + 1)
        has_keys = self._plain[start] == "{"
        while self._plain[position] not in "}]":
            begin, key = position, None
            if has_keys:
                key, position = decoder.raw_decode(self._plain, position)
                position = self._after_space(self._after_space(position) + 1)
            _, end = decoder.raw_decode(self._plain, position)
            yield _Member(key, begin, position, end)
            position = self._after_space(end)
            if self._plain[position] == ",":
                position = self._after_space(position + 1)

    def _inserted(self, start: int, members: list[_Member], key: str | None, value: Json) -> str:
        """The text with a member put behind the last one of what starts there."""
        if not members:
            return self._first(start, key, value)
        last = members[-1]
        trailing = self._comma_behind(last.end)
        behind = last.end if trailing is None else trailing + 1
        comma, after = (",", "") if trailing is None else ("", ",")  # a trailing one stays one
        indent = self._indent_at(last.begin)
        place, gap = behind, " "
        if "\n" in self.text[start : last.begin]:
            place, gap = self._line_end(behind), f"{self._newline}{indent}"
        made = f"{gap}{_key(key)}{self._shown(value, indent)}{after}"
        between = self.text[last.end : place]
        return f"{self.text[: last.end]}{comma}{between}{made}{self.text[place:]}"

    def _first(self, start: int, key: str | None, value: Json) -> str:
        """The text with the first member of the object that starts there."""
        outer, place = self._indent_at(start), start + 1
        indent, rest = outer + self._step, self.text[place:]
        if not rest.lstrip(" \t").startswith(("\n", "\r", "/")):
            rest = f"{self._newline}{outer}{rest.lstrip()}"
        made = f"{self._newline}{indent}{_key(key)}{self._shown(value, indent)}"
        return f"{self.text[:place]}{made}{rest}"

    def _comma_behind(self, position: int) -> int | None:
        """Where the trailing comma behind a last member is, if there is one."""
        while self.text[position] != ",":
            comment = _TOKENS.match(self.text, position)
            if not comment and not self.text[position].isspace():
                return None
            position = comment.end() if comment else position + 1
        return position

    def _line_end(self, position: int) -> int:
        """The end of the line, if there is nothing but comments until then."""
        place = position
        while place < len(self.text) and self.text[place] not in "\r\n":
            comment = _TOKENS.match(self.text, place)
            if self.text[place] not in " \t" and (not comment or "\n" in comment[0]):
                return position
            place = comment.end() if comment else place + 1
        return place

    def _after_space(self, position: int) -> int:
        while self._plain[position].isspace():
            position += 1
        return position

    def _indent_at(self, position: int) -> str:
        """The spaces that the line begins with."""
        line = self.text[self.text.rfind("\n", 0, position) + 1 : position]
        return line[: len(line) - len(line.lstrip(" \t"))]

    @property
    def _newline(self) -> str:
        return "\r\n" if "\r\n" in self.text else "\n"

    @property
    def _step(self) -> str:
        """What a level is indented by."""
        found = re.search(r"\n([ \t]+)\S", self._plain)
        return found[1] if found else _INDENT

    def _shown(self, value: Json, indent: str) -> str:
        lines = json.dumps(value, indent=self._step, ensure_ascii=False).split("\n")
        return f"{self._newline}{indent}".join(lines)

    def _checked(self, text: str, expected: Json) -> "Document":
        """What was made, which must say what it should, and have all of the comments."""
        made = Document(text)
        if made.value != expected:
            raise DocumentError("can't be changed safely")
        if made.comments != self.comments:
            raise DocumentError("has comments that would be lost")
        return made


def _key(name: str | None) -> str:
    return "" if name is None else f"{json.dumps(name, ensure_ascii=False)}: "


def _nested(path: tuple[str, ...], value: Json) -> Json:
    """`value` in objects of its own, one for each key of `path`."""
    for name in reversed(path):
        value = {name: value}
    return value


def _put(table: dict[str, Json], path: tuple[str, ...], value: Json) -> dict[str, Json]:
    key, *rest = path
    if not rest:
        return {**table, key: value}
    inner = table.get(key, {})
    if not isinstance(inner, dict):
        raise DocumentError(f"has something else than an object as {key}")
    return {**table, key: _put(inner, tuple(rest), value)}


def _comments(text: str) -> Iterator[str]:
    found = (match[0] for match in _TOKENS.finditer(text))
    return (token for token in found if not token.startswith('"'))


def _without_comments(text: str) -> str:
    """`text` with spaces for comments and trailing commas; nothing else moves."""
    plain = _TOKENS.sub(lambda match: _blank(match[0]), text)
    return _TRAILING.sub(lambda match: match[1] or " ", plain)


def _blank(token: str) -> str:
    is_whole = token.startswith("//") or (token.endswith("*/") and len(token) >= len("/**/"))
    return re.sub(r"[^\r\n]", " ", token) if is_whole else token
