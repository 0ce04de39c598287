"""Troubleshooting quotes what the product says, and leaves nothing out."""

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module

import pytest

from calls_mcp.errors import InvocationError
from calls_mcp.tools.catalog import CONFIG
from tests.docs.messages import errors_at_start, everything, findings, refusals
from tests.docs.pages import ROOT, spans

TEXT = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
HINTS = tomllib.loads((CONFIG / "errors.toml").read_text("utf-8"))


def rows() -> Iterator[list[str]]:
    for line in TEXT.splitlines():
        if line.startswith("| ") and "`" in line:
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@cache
def quoted() -> tuple[str, ...]:
    """What is in the column of messages, wherever it is."""
    cells = (row[-2] for row in rows() if len(row) > 1)
    return tuple(span for cell in cells for span in spans(cell))


@cache
def said_texts() -> str:
    """Return all that the product says, with a null character between two texts."""
    return "\0".join((*everything(), *HINTS.values()))


def is_said(message: str) -> bool:
    """Whether the product says this; … stands for anything, and a short text for itself."""
    if _is_short(message):
        return message in said_texts().split("\0")
    return bool(re.search(re.escape(message).replace("…", "[^\0]*"), said_texts()))


def is_told(said: str) -> bool:
    """Whether a message with its variable parts has one on the page that means it."""
    return any(_meets(message, said) for message in quoted())


def _meets(message: str, said: str) -> bool:
    if _is_short(message):
        return message == said
    return bool(re.search(f"(?s){re.escape(message).replace('…', '.*')}", said))


def _is_short(message: str) -> bool:
    return len(message.replace("…", "").strip(": ")) < 8


def test_there_is_something_to_quote() -> None:
    assert len(quoted()) > 60
    assert len([*errors_at_start()]) > 20
    assert len([*refusals()]) > 10
    assert len([*findings()]) > 15


@pytest.mark.parametrize("message", quoted())
def test_each_message_is_one_of_the_products(message: str) -> None:
    assert is_said(message), message


@pytest.mark.parametrize("said", sorted({*errors_at_start(), *refusals(), *findings()}))
def test_each_error_at_start_refusal_and_finding_is_told(said: str) -> None:
    assert is_told(said), f"docs/troubleshooting.md does not tell: {said}"


def test_each_kind_of_error_is_told() -> None:
    for module in ("guard.execution", "service.runtime"):  # which load all that can go wrong
        import_module(f"calls_mcp.{module}")
    kinds = {kind.kind for kind in _all(InvocationError) if hasattr(kind, "kind")}
    told = {span for row in rows() for span in spans(row[0])}
    assert len(kinds) > 10
    assert kinds <= told


def test_what_nobody_says_is_found_out() -> None:
    assert not is_said("The line is engaged.")
    assert not is_told("The line is engaged.")


def _all(root: type[InvocationError]) -> Iterator[type[InvocationError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _all(kind)
