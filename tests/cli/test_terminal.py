"""Tables and progress in a terminal and elsewhere."""

import io
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.cli import terminal
from calls_mcp.cli.terminal import painted, progress, say, show_table, warn
from tests.untrusted_text import TEXTS, invisible

COLUMNS = ("id", "state", "summary")
ROWS = (("a1", "pending", "Place a call to a number"), ("b22", "denied", "Hang up"))


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(
    monkeypatch: pytest.MonkeyPatch,
    width: int | None = None,
    rows: Sequence[Sequence[str]] = ROWS,
) -> list[str]:
    """Return the lines of a table in a terminal of this width, or in a pipe."""
    stream = io.StringIO() if width is None else Screen()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", str(width))
    show_table(COLUMNS, rows)
    return stream.getvalue().splitlines()


@pytest.fixture(autouse=True)
def _no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


def test_a_table_in_a_pipe_is_aligned_and_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch) == [
        "ID   STATE    SUMMARY",
        "a1   pending  Place a call to a number",
        "b22  denied   Hang up",
    ]


def test_the_last_column_wraps_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("a1", "pending", "Place a call to a number in another country")]
    assert shown(monkeypatch, 40, rows) == [
        "ID  STATE    SUMMARY",
        "a1  pending  Place a call to a number in",
        "             another country",
    ]


def test_a_narrow_terminal_gets_a_block_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, 30)[:4] == [
        "ID       a1",
        "STATE    pending",
        "SUMMARY  Place a call to a number",
        "",
    ]


def test_color_does_not_change_the_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(sys, "stdout", Screen())
    state = painted("pending", "yellow")
    assert shown(monkeypatch, 80, [("a1", state, "x"), ("b22", "denied", "y")])[1:] == [
        "a1   \x1b[33mpending\x1b[0m  x",
        "b22  denied   y",
    ]


def test_progress_is_shown_in_a_terminal_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(terminal, "monotonic", lambda: now)
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    with progress("records") as show:
        show(10)
        assert screen.getvalue() == ""
        now = 1.5
        show(12_000)
        assert screen.getvalue() == "\r12,000 records…"
    assert screen.getvalue().endswith("\r\x1b[K")


def test_progress_is_not_shown_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(terminal, "monotonic", lambda: now)
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    with progress("records") as show:
        now = 5.0
        show(1)
    assert pipe.getvalue() == ""


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_nothing_in_a_text_can_control_the_terminal(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR")
    for stream, write in (("stdout", say), ("stderr", warn)):
        screen = Screen()
        monkeypatch.setattr(sys, stream, screen)
        write(text)
        assert not invisible(screen.getvalue())
        write(f"{painted('plain', 'red')} {text}")
        assert invisible(screen.getvalue()) <= {"\x1b"}
        assert screen.getvalue().count("\x1b") == 2


def test_what_is_escaped_stays_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    say("a\x1b[8mb\r\u202ec\nd")
    assert screen.getvalue() == "a⟨U+001B⟩[8mb⟨U+000D⟩⟨U+202E⟩c\nd\n"


@given(st.text())
def test_a_painted_text_is_escaped_too(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NO_COLOR", raising=False)
        screen = Screen()
        patch.setattr(sys, "stdout", screen)
        say(painted(text, "red"))
        inner = screen.getvalue().removeprefix("\x1b[31m").removesuffix("\x1b[0m\n")
        assert not invisible(inner)


def test_a_line_break_in_a_cell_starts_no_new_row(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, rows=[("a1", "x\nb22  denied", "Hang up\nc3")])
    assert lines[1:] == ["a1  x⟨U+000A⟩b22  denied  Hang up⟨U+000A⟩c3"]
