"""What happens at the other end: decided by the number that is called."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict, NonNegativeFloat, NonPositiveFloat, with_config

from calls_mcp.emulator.errors import ApiError, invalid

Detected = Literal[
    "human",
    "machine",
    "machine_start",
    "machine_end_beep",
    "machine_end_silence",
    "machine_end_other",
    "fax",
    "unknown",
]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Script:
    """The behaviour of a destination.

    Attributes:
        end_as: How the call ends if nobody interferes.
        answer_after: Seconds of ringing before the destination answers, or refuses.
        talk_for: Seconds of talk, if it answers.
        answered_by: Who or what answers. A `machine` is found at its start or its beep, by the
            kind of detection.
        price: What the call costs in US dollars, negative as in the API; None for what its
            minutes cost.
    """

    end_as: Literal["completed", "busy", "no-answer", "failed"] = "completed"
    answer_after: NonNegativeFloat = 3
    talk_for: NonNegativeFloat = 20
    answered_by: Detected = "human"
    price: NonPositiveFloat | None = None


ORDINARY = Script()

NEVER = float("inf")

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
"""Destinations for tests: busy, no answer, failed, answering machine, an hour of talk, a slow
answer after 30 s, a fax, and one that hangs up as soon as it has answered. Any other number
rings for 3 s and talks for 20 s."""

VALID_FROM = "+15005550006"
INVALID_FROM = "+15005550001"

REFUSED_TO = {
    "+15005550001": (21217, "does not appear to be valid"),
    "+15005550002": (21214, "cannot be reached"),
    "+15005550003": (21215, "is in a country that is not enabled for this account"),
    "+15005550004": (21216, "is blocked"),
}
"""The magic numbers of the service's test credentials."""


@dataclass(frozen=True)
class Scenario:
    """What each destination does.

    Attributes:
        numbers: The scripts of single destinations, beside `SCRIPTS` or instead of them.
        otherwise: What every other destination does.
    """

    numbers: Mapping[str, Script] = field(default_factory=dict[str, Script])
    otherwise: Script = ORDINARY

    def script_of(self, to: str) -> Script:
        """What the destination does.

        Raises:
            ApiError: 400 for one of the magic numbers that stand for an unreachable destination.
        """
        if to in self.numbers:
            return self.numbers[to]
        if to in REFUSED_TO:
            raise refusal(to)
        return SCRIPTS.get(to, self.otherwise)


def refusal(to: str) -> ApiError:
    """Why the call to this magic number is not placed."""
    code, reason = REFUSED_TO[to]
    return invalid(f"The phone number you are attempting to call, {to}, {reason}.", code)
