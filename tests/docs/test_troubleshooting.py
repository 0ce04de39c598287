"""The troubleshooting page quotes all messages of the product, and nothing else."""

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module

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
    """Return the messages in the tables, from the last column but one."""
    cells = (row[-2] for row in rows() if len(row) > 1)
    return tuple(span for cell in cells for span in spans(cell))


@cache
def source_texts() -> str:
    """Return all messages of the product, separated by null characters."""
    return "\0".join((*everything(), *HINTS.values()))


def is_in_source(message: str) -> bool:
    """Return whether the product has this message. … matches anything, except in short messages."""
    if _is_short(message):
        return message in source_texts().split("\0")
    pattern = re.escape(message.strip("…")).replace("…", "[^\0]*")  # at its ends, … takes long
    return bool(re.search(pattern, source_texts()))


def is_documented(said: str) -> bool:
    """Return whether the page has this message of the product."""
    return any(_matches(message, said) for message in quoted())


def _matches(message: str, said: str) -> bool:
    if _is_short(message):
        return message == said
    return bool(re.search(f"(?s){re.escape(message).replace('…', '.*')}", said))


def _is_short(message: str) -> bool:
    return len(message.replace("…", "").strip(": ")) < 8


def test_the_messages_are_found() -> None:
    assert len(quoted()) > 60
    assert len([*errors_at_start()]) > 20
    assert len([*refusals()]) > 10
    assert len([*findings()]) > 15


def test_each_documented_message_is_in_the_source() -> None:
    assert [message for message in quoted() if not is_in_source(message)] == []


def test_each_startup_error_each_refusal_and_each_finding_is_documented() -> None:
    said = {*errors_at_start(), *refusals(), *findings()}
    assert sorted(text for text in said if not is_documented(text)) == []


def test_each_kind_of_error_is_documented() -> None:
    for module in ("guard.execution", "service.runtime"):  # import every error
        import_module(f"calls_mcp.{module}")
    kinds = {kind.kind for kind in _all(InvocationError) if hasattr(kind, "kind")}
    documented = {span for row in rows() for span in spans(row[0])}
    assert len(kinds) > 10
    assert kinds <= documented


def test_an_unknown_message_is_detected() -> None:
    assert not is_in_source("The line is engaged.")
    assert not is_documented("The line is engaged.")


def _all(root: type[InvocationError]) -> Iterator[type[InvocationError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _all(kind)
