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
    nobody has decided by `lapses_at`, nobody can any more. Where the rule wants any human,
    `users_too` is true: the client's user could have said yes, had it been able to ask them.
    """

    identifier: str
    binding: Binding
    action: Action
    preview: str
    client: str
    rule: str
    asked_at: float
    lapses_at: float
    users_too: bool = False


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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a case stands among those that wait: by its age, and then by its identifier."""

    asked_at: float
    identifier: str


@dataclass(frozen=True, slots=True)
class Queue:
    """Some of what waits, the oldest first, of `count` in all; `last` is where the rest begins.

    Nothing comes after it if there is no `last`.
    """

    cases: Sequence[Filed]
    count: int
    last: Place | None = None


class Docket(Protocol):
    """Keeps cases and rulings. Every method raises StoreUnavailable if they can't be reached."""

    async def file(self, case: Case, most: int) -> bool:
        """Keep a new case, unless `most` of the same principal's wait already: whether it is."""
        ...

    async def find(self, identifier: str) -> Filed | None:
        """The case of this identifier, if it is still kept."""
        ...

    async def settled(self, identifier: str) -> Filed | None:
        """The same, behind every ruling that is under way."""
        ...

    async def rule(self, identifier: str, ruling: Ruling) -> Ruling | None:
        """Decide a case, once for all: the ruling that stands, which is the first.

        None if there is no such case, or it has lapsed.
        """
        ...

    async def listed(self, most: int) -> Sequence[Filed]:
        """The newest cases, the newest first, whether or not they are decided."""
        ...

    async def waiting(self, most: int, after: Place | None = None) -> Queue:
        """At most `most` of those that can be decided now, and no more is read than these.

        They begin with the oldest, or `after` a place, whether or not a case still waits there.
        """
        ...

    async def mark(self) -> str:
        """What is another whenever something else waits than before."""
        ...


_CASE = TypeAdapter(Case)
_RULING = TypeAdapter(Ruling)


def queue(rows: Sequence[tuple[str, str, float]], most: int, count: int) -> Queue:
    """What `rows` of a case's JSON, identifier and age say; one beyond `most` says there are more.

    What another version of this program wrote is passed over.
    """
    filed = [unpack_filed(case, None) for case, _, _ in rows[:most]]
    more = rows[most - 1] if len(rows) > most else None
    return Queue([each for each in filed if each], count, more and Place(more[2], more[1]))


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
