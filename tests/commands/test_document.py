"""Other programs' files, changed in one place and nowhere else."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.clients import Document, DocumentError

ENTRY: dict[str, Any] = {"command": "calls-mcp", "args": ["serve"]}
PATH = ("mcpServers", "calls")

leaves = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
values = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
names = st.sampled_from(["mcpServers", "other", "x"])
objects = st.dictionaries(names, st.dictionaries(st.text(), values, max_size=3) | values)
comments = st.sampled_from(["// one, two: {\n", "/* a\n[ */", "/**/", '// "quoted\n', "/* // */"])


@st.composite
def commented(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    """An object, and a text of it with comments and trailing commas wherever they may be."""
    value = draw(objects)
    text = json.dumps(value, indent=draw(st.sampled_from([None, 2, "\t"])))
    made = ""
    for token in re.findall(r'"(?:[^"\\]|\\.)*"|[\]}]|[^"\]}]+', text):
        if token in "]}" and made.rstrip()[-1:] not in ("[", "{") and draw(st.booleans()):
            made += ","
        made += token
        if draw(st.integers(0, 3)) == 0:
            made += draw(comments)
    return value, draw(st.sampled_from(["", "// first\n"])) + made + "\n"


@given(commented())
def test_what_is_put_in_is_there_and_all_else_as_it_was(made: tuple[dict[str, Any], str]) -> None:
    value, text = made
    before = Document(text)
    assert before.value == value
    servers = value.get("mcpServers", {})
    if not isinstance(servers, dict):
        with pytest.raises(DocumentError, match="mcpServers"):
            before.with_member(PATH, ENTRY)
        return
    after = before.with_member(PATH, ENTRY)
    servers = {**value.get("mcpServers", {}), "calls": ENTRY}
    assert after.value == {**value, "mcpServers": servers}
    assert after.comments == before.comments
    if "calls" not in value.get("mcpServers", {}):
        assert is_subsequence(text, after.text)
    assert after.with_member(PATH, ENTRY).text == after.text


@given(commented(), st.lists(values, min_size=1, max_size=3))
def test_what_is_put_behind_an_arrays_items_leaves_them_as_they_were(
    made: tuple[dict[str, Any], str], items: list[Any]
) -> None:
    value, text = made
    before, there = Document(text), value.get("x", [])
    if not isinstance(there, list):
        with pytest.raises(DocumentError, match="array as x"):
            before.with_items("x", items)
        return
    if not there:
        return  # then it is a member like any other
    after = before.with_items("x", items)
    assert after.value == {**value, "x": [*there, *items]}
    assert after.comments == before.comments
    assert is_subsequence(text, after.text)


def is_subsequence(part: str, whole: str) -> bool:
    rest = iter(whole)
    return all(character in rest for character in part)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '{\n\t"a": 1 // one\n}\n',
            '{\n\t"a": 1, // one\n\t"b": {\n\t\t"c": 2\n\t}\n}\n',
        ),
        (
            '// head\n{\n  "a": 1, // one\n  // end\n}',
            '// head\n{\n  "a": 1, // one\n  "b": {\n    "c": 2\n  },\n  // end\n}',
        ),
        ("{}", '{\n  "b": {\n    "c": 2\n  }\n}'),
        ("", '{\n  "b": {\n    "c": 2\n  }\n}\n'),
        ('{ "b": {} }', '{ "b": {\n  "c": 2\n} }'),
        ('{"b": {"c": 1}, "d": [1,2]}', '{"b": {"c": 2}, "d": [1,2]}'),
        ('{\r\n  "b": {\r\n  }\r\n}', '{\r\n  "b": {\r\n    "c": 2\r\n  }\r\n}'),
    ],
)
def test_it_looks_as_if_the_user_had_written_it(before: str, after: str) -> None:
    assert Document(before).with_member(("b", "c"), 2).text == after


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "not a JSON object"),
        ('{"a": 1', "not JSON"),
        ('{"a": 1 /* never ends', "not JSON"),
        ("{} /* never ends", "not JSON"),
        ("{} /*/", "not JSON"),
        ('{"a": "\\', "not JSON"),
        ("{a: 1}", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_object_is_refused(text: str, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        Document(text)


def test_where_a_comment_would_be_lost_it_refuses() -> None:
    document = Document('{"mcpServers": {"calls": {/* mine */ "command": "x"}}}')
    with pytest.raises(DocumentError, match="comments that would be lost"):
        document.with_member(PATH, ENTRY)


def test_where_something_else_is_in_the_way_it_refuses() -> None:
    with pytest.raises(DocumentError, match="mcpServers"):
        Document('{"mcpServers": []}').with_member(PATH, ENTRY)


LONG = 400_000  # which would take hours if it were looked for again and again
FLAWED = {
    "a string": '{"a": "' + '\\"' * LONG,
    "comments": "{" + "/*" * LONG,
    "quotes": '{"a": ' + '"' * (2 * LONG),
    "commas": '{"a": [' + ", " * LONG,
    "spaces": '{"a": 1,' + " " * LONG,
}


@pytest.mark.parametrize("text", FLAWED.values(), ids=FLAWED)
def test_what_never_ends_is_soon_refused(text: str) -> None:
    with pytest.raises(DocumentError, match="not JSON"):
        Document(text)
