"""What happens at the other end: decided by the number that is called."""

from dataclasses import dataclass
from typing import Literal

from calls_mcp.emulator.errors import ApiError, invalid

Detected = Literal["human", "machine", "fax"]


@dataclass(frozen=True)
class Script:
    """The behaviour of a destination.

    Attributes:
        end_as: How the call ends if nobody interferes.
        ring_for: Seconds of ringing before the destination does anything.
        talk_for: Seconds of talk, if it answers.
        answered_by: Who or what answers.
    """

    end_as: Literal["completed", "busy", "failed"] = "completed"
    ring_for: float = 3
    talk_for: float = 20
    answered_by: Detected = "human"


ORDINARY = Script()

NEVER = float("inf")

SCRIPTS = {
    "+15005550201": Script(end_as="busy", ring_for=2),
    "+15005550202": Script(ring_for=NEVER),
    "+15005550203": Script(end_as="failed", ring_for=0),
    "+15005550204": Script(answered_by="machine"),
    "+15005550205": Script(talk_for=3600),
    "+15005550206": Script(ring_for=30),
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


def script_of(to: str) -> Script:
    """What the destination does.

    Raises:
        ApiError: 400 for one of the magic numbers that stand for an unreachable destination.
    """
    if to in REFUSED_TO:
        raise refusal(to)
    return SCRIPTS.get(to, ORDINARY)


def refusal(to: str) -> ApiError:
    """Why the call to this magic number is not placed."""
    code, reason = REFUSED_TO[to]
    return invalid(f"The phone number you are attempting to call, {to}, {reason}.", code)
