"""Write to stdout and stderr: in color on a terminal, plain elsewhere."""

import json
import os
import re
import secrets
import shutil
import sys
import textwrap
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Literal, TextIO

from calls_mcp.observability.redaction import escape_invisible

Color = Literal["plain", "bold", "dim", "red", "green", "yellow", "cyan"]

_CODES: dict[Color, str] = {
    "plain": "0",
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
}
_START = f"\x1b{secrets.token_hex(4)}["
"""Starts a color of ours. No text from elsewhere can contain it."""
_COLOR = re.compile(f"{re.escape(_START)}([0-9]+)m")
_GAP = "  "  # between columns
_NARROWEST = 20  # characters of a last column that is readable
_FIRST_PROGRESS, _NEXT_PROGRESS = 1.0, 0.2  # seconds


def painted(text: str, color: Color, stream: TextIO | None = None) -> str:
    """Return `text` in a color on a terminal (default: stdout), unless NO_COLOR is set.

    Only `say` and `warn` can write what this returns.
    """
    if not (stream or sys.stdout).isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"{_START}{_CODES[color]}m{text}{_START}0m"


def say(text: str = "", stream: TextIO | None = None) -> None:
    """Write a line to `stream` (default: stdout).

    Invisible characters, such as escape sequences and bidi controls, are shown as `⟨U+001B⟩`; line
    feeds and the colors of `painted` are not. Characters that the stream's encoding lacks become
    `?`. A closed pipe, as in `… | head`, is not an error.
    """
    into = stream or sys.stdout
    encoding = into.encoding or "utf-8"
    try:
        into.write(f"{_safe(text).encode(encoding, 'replace').decode(encoding)}\n")
        into.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, into.fileno())
        os.close(nowhere)


def _safe(text: str) -> str:
    """Return `text` so that only our own colors can control the terminal."""
    plain, *colored = _COLOR.split(text)
    codes, rest = colored[::2], colored[1::2]
    parts = (
        f"\x1b[{code}m{escape_invisible(part)}" for code, part in zip(codes, rest, strict=True)
    )
    return escape_invisible(plain) + "".join(parts)


def warn(text: str) -> None:
    """Write a line to stderr."""
    say(text, sys.stderr)


def show_json(value: object) -> None:
    """Write `value` to stdout as JSON, in ASCII so that nothing in it can move the cursor."""
    say(json.dumps(value, indent=2))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows to stdout under the names of their columns.

    On a terminal the last column wraps; it must not be painted. If the terminal is too narrow for
    that, each row is written as a block with a line for each column.
    """
    names = [name.upper() for name in columns]
    rows = [[cell.replace("\n", "⟨U+000A⟩") for cell in row] for row in rows]
    widths = [max(map(_width, cells)) for cells in zip(names, *rows, strict=True)]
    limit = _limit_of_last(widths)
    if limit is not None and limit < _NARROWEST:
        say("\n\n".join("\n".join(_block(names, row)) for row in rows))
        return
    say(painted(_GAP.join(map(str.ljust, names, widths)).rstrip(), "bold"))
    for row in rows:
        for line in _row(row, widths, limit):
            say(line)


def _limit_of_last(widths: Sequence[int]) -> int | None:
    """Return how wide the last column can be; None if it needs no limit."""
    if not sys.stdout.isatty():
        return None
    left = shutil.get_terminal_size().columns - sum(widths[:-1]) - len(_GAP) * (len(widths) - 1)
    return None if widths[-1] <= left else left


def _row(row: Sequence[str], widths: Sequence[int], limit: int | None) -> Iterator[str]:
    *cells, last = row
    padded = [
        cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=False)
    ]
    first, *others = [last] if limit is None else textwrap.wrap(last, limit) or [""]
    yield _GAP.join([*padded, first]).rstrip()
    indent = " " * (sum(widths[:-1]) + len(_GAP) * len(cells))
    yield from (indent + line for line in others)


def _block(names: Sequence[str], row: Sequence[str]) -> Iterator[str]:
    width = max(map(len, names))
    for name, cell in zip(names, row, strict=True):
        yield f"{painted(name.ljust(width), 'bold')}{_GAP}{cell}".rstrip()


def _width(cell: str) -> int:
    return len(_COLOR.sub("", cell))


@contextmanager
def progress(what: str) -> Generator[Callable[[int], None]]:
    """Yield a function that shows a count of `what` on stderr, such as `12,000 records`.

    It shows nothing in the first second, or if stderr is not a terminal.
    """
    stream, due, is_shown = sys.stderr, monotonic() + _FIRST_PROGRESS, False
    is_terminal = stream.isatty()

    def show(count: int) -> None:
        nonlocal due, is_shown
        now = monotonic()
        if not is_terminal or now < due:
            return
        due, is_shown = now + _NEXT_PROGRESS, True
        stream.write(f"\r{count:,} {what}…")
        stream.flush()

    try:
        yield show
    finally:
        if is_shown:
            stream.write("\r\x1b[K")  # erase the line
            stream.flush()
