"""What an examination finds."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem", "fatal"]
"""`problem`: it starts, but something is wrong; `fatal`: it does not even start."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `remedy` is the command or the variable that mends it."""

    check: str
    level: Level
    message: str
    remedy: str = ""
    details: tuple[str, ...] = ()
