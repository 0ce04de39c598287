"""What `calls-mcp doctor` checks: settings, files, the Calls API, and what HTTP needs.

The only request to the API is a list of one call. Nothing is written anywhere.
"""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem", "fatal"]
"""`problem`: the server starts, but something is wrong; `fatal`: it does not start."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: `remedy` is the command or the variable that corrects it."""

    check: str
    level: Level
    message: str
    remedy: str = ""
    details: tuple[str, ...] = ()
