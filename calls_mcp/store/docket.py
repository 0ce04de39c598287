"""What waits for the operator's decision, where every process beside the store sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from calls_mcp.guard import Action, Binding


@dataclass(frozen=True, slots=True)
class Case:
    """A change that the operator is asked about; times are epoch seconds.

    `client` is what the principal's client calls itself, and `rule` what demands the decision. If
    nobody has decided by `lapses_at`, nobody can any more.
    """

    identifier: str
    binding: Binding
    action: Action
    preview: str
    client: str
    rule: str
    asked_at: float
    lapses_at: float


@dataclass(frozen=True, slots=True)
class Ruling:
    """A decision: who took it, when (epoch seconds), and why, if they said so."""

    is_approval: bool
    by: str
    at: float
    reason: str = ""

    @property
    def word(self) -> str:
        """What it says, in a word."""
        return "approved" if self.is_approval else "denied"


@dataclass(frozen=True, slots=True)
class Filed:
    """A case as it stands now."""

    case: Case
    ruling: Ruling | None = None

    def has_lapsed(self, now: float) -> bool:
        """Whether nobody decided in time."""
        return self.ruling is None and now >= self.case.lapses_at


class Docket(Protocol):
    """Keeps cases and rulings. Every method raises StoreUnavailable if they can't be reached."""

    async def file(self, case: Case, most: int) -> bool:
        """Keep a new case, unless `most` of the same principal's wait already: whether it is."""
        ...

    async def find(self, identifier: str) -> Filed | None:
        """The case of this identifier, if it is still kept."""
        ...

    async def rule(self, identifier: str, ruling: Ruling) -> Ruling | None:
        """Decide a case, once for all: the ruling that stands, which is the first.

        None if there is no such case, or it has lapsed.
        """
        ...

    async def listed(self, most: int) -> Sequence[Filed]:
        """The newest cases, the newest first, whether or not they are decided."""
        ...


_CASE = TypeAdapter(Case)
_RULING = TypeAdapter(Ruling)


def pack_case(case: Case) -> str:
    """`case` as JSON."""
    return _CASE.dump_json(case).decode()


def pack_ruling(ruling: Ruling) -> str:
    """`ruling` as JSON."""
    return _RULING.dump_json(ruling).decode()


def unpack_ruling(text: str) -> Ruling:
    """What `pack_ruling` was given."""
    return _RULING.validate_json(text)


def unpack_filed(case: str, ruling: str | None) -> Filed | None:
    """What the two were given; None for what another version of this program wrote."""
    try:
        return Filed(_CASE.validate_json(case), unpack_ruling(ruling) if ruling else None)
    except ValidationError:
        return None
