"""The result of a check of `calls-mcp doctor`."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem", "fatal"]
"""`problem`: the server starts, but something is wrong; `fatal`: it does not start."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. `remedy` has the command or the variable that fixes it."""

    check: str
    level: Level
    message: str
    remedy: str = ""
    details: tuple[str, ...] = ()
