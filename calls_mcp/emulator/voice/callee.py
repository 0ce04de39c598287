"""The person or machine at the other end, who follows a script."""

import re
from collections.abc import Iterator

from calls_mcp.emulator.scenario import Reaction, Script

SPEECH_RATE = 15  # characters a second
PLAY_SECONDS = 5  # of a file, which is not fetched
KEYS = frozenset("0123456789*#ABCD")
KEY_PAUSES = {"w": 0.5, "W": 1.0}  # seconds; other keys take no time


def speech_seconds(text: str) -> float:
    """Return how long it takes to say a text."""
    return max(1.0, round(len(text) / SPEECH_RATE, 1))


def key_times(keys: str) -> Iterator[tuple[str, float]]:
    """Yield each key of a sequence with its time, in seconds; `w` and `W` are pauses.

    Other characters are left out.
    """
    seconds = 0.0
    for key in keys:
        if key in KEY_PAUSES:
            seconds += KEY_PAUSES[key]
        elif key in KEYS:
            yield key, seconds


def keys_seconds(keys: str) -> float:
    """Return how long a sequence of keys takes."""
    return sum(KEY_PAUSES.get(key, 0) for key in keys)


class Callee:
    """The other party of a call.

    Attributes:
        script: What it does.
        timed: The reactions that have a time.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.timed = [each for each in script.reactions if each.at is not None]
        self._left = [each for each in script.reactions if each.hears is not None]

    def hear(self, text: str) -> Reaction | None:
        """Return the first unused reaction to a prompt, None if there is none."""
        heard = _plain(text)
        for reaction in self._left:
            if _plain(reaction.hears or "") in heard:
                self._left.remove(reaction)
                return reaction
        return None


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().casefold()
