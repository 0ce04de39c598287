"""Write to stdout and stderr: in colour on a terminal, plain elsewhere."""

import json
import os
import sys
from typing import Literal, TextIO

Colour = Literal["plain", "bold", "dim", "red", "green", "yellow", "cyan"]

_CODES: dict[Colour, str] = {
    "plain": "0",
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
}


def painted(text: str, colour: Colour, stream: TextIO | None = None) -> str:
    """Return `text` in a colour if `stream` (stdout) is a terminal, and NO_COLOR is not set."""
    if not (stream or sys.stdout).isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def say(text: str = "", stream: TextIO | None = None) -> None:
    """Write a line to `stream` (stdout); what its encoding lacks is written as `?`.

    A reader that has gone, as in `… | head`, is not an error.
    """
    into = stream or sys.stdout
    encoding = into.encoding or "utf-8"
    try:
        into.write(f"{text.encode(encoding, 'replace').decode(encoding)}\n")
        into.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, into.fileno())
        os.close(nowhere)


def warn(text: str) -> None:
    """Write a line to stderr."""
    say(text, sys.stderr)


def show_json(value: object) -> None:
    """Write `value` to stdout as JSON, in ASCII: nothing in it can move the cursor."""
    say(json.dumps(value, indent=2))
