"""The behavior of destinations: the script of each called number, and how it is followed."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    NonNegativeFloat,
    NonPositiveFloat,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from calls_mcp.emulator.addresses import is_address, is_phone_number
from calls_mcp.emulator.api_errors import StartError, describe, invalid

NEVER = float("inf")
DEFAULT_TALK = 20  # seconds, if nothing else ends a call
PLAY_SECONDS = 5  # of a file, which is not fetched
VALID_FROM = "+15005550006"
INVALID_FROM = "+15005550001"
_OTHERWISE = "otherwise"
_STRICT = ConfigDict(extra="forbid")
_APPLICATION = re.compile("AP[0-9a-fA-F]{32}")
_KEY_SEQUENCE = re.compile("[0-9A-D*#wW]{1,64}")
_KEYS = frozenset("0123456789*#ABCD")
_KEY_PAUSES = {"w": 0.5, "W": 1.0}  # seconds; other keys take no time
_SPEECH_RATE = 15  # characters a second


def _checked_keys(text: str) -> str:
    if not _KEY_SEQUENCE.fullmatch(text):
        raise ValueError("must be 1 to 64 of the characters 0-9 A-D # * w W")
    return text


Keys = Annotated[str, AfterValidator(_checked_keys)]

EndStatus = Literal["completed", "busy", "no-answer", "failed"]
AnsweredBy = Literal[
    "human",
    "machine",
    "machine_start",
    "machine_end_beep",
    "machine_end_silence",
    "machine_end_other",
    "fax",
    "unknown",
]


@pydantic_dataclass(frozen=True, config=_STRICT)
class Reaction:
    """What the callee does, once: at a time, or in response to a prompt.

    Attributes:
        at: Seconds after the answer, None to react to `hears`.
        hears: Words that a prompt contains, ignoring case.
        after: Seconds between the end of that prompt and the reaction.
        press: Keys to press: `0`-`9`, `*`, `#`, `A`-`D`; `w` waits half a second, `W` a second.
        say: Words to say.
        hang_up: Whether to hang up.
    """

    at: NonNegativeFloat | None = None
    hears: Annotated[str, StringConstraints(min_length=1)] | None = None
    after: NonNegativeFloat = 1
    press: Keys | None = None
    say: Annotated[str, StringConstraints(min_length=1)] | None = None
    hang_up: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError unless it has either a time or a prompt, and one thing to do."""
        if (self.at is None) == (self.hears is None):
            raise ValueError("needs either at or hears")
        if [self.press, self.say, self.hang_up or None].count(None) != 2:  # noqa: PLR2004 - one of three
            raise ValueError("needs one of press, say and hang_up")


@pydantic_dataclass(frozen=True, config=_STRICT)
class Script:
    """The behavior of a destination.

    Attributes:
        end_as: The final status, unless the call is changed meanwhile.
        answer_after: Seconds of ringing before the destination answers or rejects the call.
        talk_for: Seconds until it hangs up, if it answers. By default it listens until the
            instructions end the call. If they are unknown, or if another call dialed it, it talks
            for 20 s, counted from its last reaction that has a time.
        answered_by: The result of answering-machine detection. A `machine` is detected at its
            start or at its beep, depending on the detection mode.
        price: The cost of the call in US dollars, negative like in the API. None charges by the
            minute.
        greeting: What it says when it answers.
        reactions: What it presses and says, and when it hangs up.
        voice_url: The instructions of this number of the account, or of this application.
        voice_method: The HTTP method for them.
        voice_fallback_url: The instructions for errors.
    """

    end_as: EndStatus = "completed"
    answer_after: NonNegativeFloat = 3
    talk_for: NonNegativeFloat | None = None
    answered_by: AnsweredBy = "human"
    price: NonPositiveFloat | None = None
    greeting: str = ""
    reactions: Sequence[Reaction] = ()
    voice_url: str | None = None
    voice_method: Literal["GET", "POST"] = "POST"
    voice_fallback_url: str | None = None

    @property
    def talk_seconds(self) -> float:
        """How long it talks if another call dialed it, or if the instructions are unknown."""
        if self.talk_for is not None:
            return self.talk_for
        return DEFAULT_TALK + max((each.at or 0 for each in self.reactions), default=0)


ORDINARY = Script()

SCRIPTS = {
    "+15005550201": Script(end_as="busy", answer_after=2),
    "+15005550202": Script(answer_after=NEVER),
    "+15005550203": Script(end_as="failed", answer_after=0),
    "+15005550204": Script(answered_by="machine"),
    "+15005550205": Script(talk_for=3600),
    "+15005550206": Script(answer_after=30),
    "+15005550207": Script(answered_by="fax"),
    "+15005550208": Script(talk_for=0),
}
"""Destinations for tests: busy, no answer, failed, answering machine, an hour of talk, an answer
after 30 s, a fax, and one that hangs up when it has answered."""

_REFUSED_TO = {  # the magic numbers of Twilio's test credentials
    "+15005550001": (21217, "does not appear to be valid"),
    "+15005550002": (21214, "cannot be reached"),
    "+15005550003": (21215, "is in a country that is not enabled for this account"),
    "+15005550004": (21216, "is blocked"),
}


@dataclass
class Scenario:
    """The behavior of all destinations, which `define` changes.

    Attributes:
        numbers: The scripts of individual destinations, which take precedence over `SCRIPTS`.
        otherwise: The script of every other destination.
    """

    numbers: Mapping[str, Script] = field(default_factory=dict[str, Script])
    otherwise: Script = ORDINARY

    def define(self, to: str, script: Script) -> None:
        """Give a destination a script. It is used for calls from now on."""
        self.numbers = {**self.numbers, to: script}

    def script_of(self, to: str) -> Script:
        """Return the script of a destination.

        Raises:
            ApiError: The destination is a magic number that cannot be called (400).
        """
        if to in self.numbers:
            return self.numbers[to]
        if to in _REFUSED_TO:
            code, reason = _REFUSED_TO[to]
            raise invalid(f"The phone number you are attempting to call, {to}, {reason}.", code)
        return SCRIPTS.get(to, self.otherwise)

    @property
    def own_numbers(self) -> frozenset[str]:
        """The numbers of the account that the scenario defines: those with instructions."""
        return frozenset(
            key for key in self.numbers if is_phone_number(key) and self.application(key)
        )

    def application(self, key: str) -> Script | None:
        """Return the script of a number or application SID that has instructions, else None."""
        script = self.numbers.get(key)
        return script if script is not None and script.voice_url else None


def _is_destination(text: str) -> str:
    if text != _OTHERWISE and not is_address(text) and not _APPLICATION.fullmatch(text):
        kinds = "a phone number, SIP address, client or application SID"
        raise ValueError(f'must be {kinds}, or "{_OTHERWISE}"')
    return text


_FILE = TypeAdapter(dict[Annotated[str, AfterValidator(_is_destination)], Script])


def load_scenario(path: str) -> Scenario:
    """Read a scenario from a TOML file with a table for each number, and one named `otherwise`.

    Raises:
        StartError: The file cannot be read or is invalid.
    """
    try:
        scripts = _FILE.validate_python(tomllib.loads(Path(path).read_text("utf-8")))
    except ValidationError as error:
        raise StartError(f"--scenario {path}: {describe(error)}") from error
    except OSError as error:
        raise StartError(f"--scenario {path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StartError(f"--scenario {path}: the file is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise StartError(f"--scenario {path}: {error}") from error
    otherwise = scripts.pop(_OTHERWISE, ORDINARY)
    return Scenario(scripts, otherwise)


def speech_seconds(text: str) -> float:
    """Return how long it takes to say a text."""
    return max(1.0, round(len(text) / _SPEECH_RATE, 1))


def key_times(keys: str) -> Iterator[tuple[str, float]]:
    """Yield each key of a sequence with its time, in seconds; `w` and `W` are pauses.

    Other characters are left out.
    """
    seconds = 0.0
    for key in keys:
        if key in _KEY_PAUSES:
            seconds += _KEY_PAUSES[key]
        elif key in _KEYS:
            yield key, seconds


def keys_seconds(keys: str) -> float:
    """Return how long a sequence of keys takes."""
    return sum(_KEY_PAUSES.get(key, 0) for key in keys)


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
