"""A store for one process."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from calls_mcp.outcome import Outcome
from calls_mcp.store.docket import Docket
from calls_mcp.store.record import Fate, Keeper, Keeping, Pending, unheard

if TYPE_CHECKING:
    from calls_mcp.store.counters import Counters


@dataclass(slots=True, eq=False)
class _Record:
    pending: Pending
    claimed_at: float | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: Outcome | None = None

    @property
    def in_flight(self) -> bool:
        return self.claimed_at is not None and not self.settled.is_set()


class MemoryStore(Keeper):
    """A `Store` for one process, of at most `capacity` records and those in flight."""

    kind: Literal["memory"] = "memory"
    docket: Docket | None = None  # an operator's console is another process

    def __init__(self, keeping: Keeping | None = None, capacity: int = 10_000) -> None:
        super().__init__(keeping or Keeping())
        self._capacity = capacity
        self._records: dict[str, _Record] = {}

    async def put(self, identifier: str, pending: Pending) -> None:
        """Keep a new question; a flood of them costs only those who make it."""
        if identifier in self._records:
            return
        self._purge()
        owner = pending.owner
        unused = [key for key in self._idle(owner) if self._records[key].claimed_at is None]
        if len(unused) >= self._keeping.each:
            del self._records[unused[0]]
        elif len(self._records) >= self._capacity:
            self._forget_one_of_the_greediest()
        self._records[identifier] = _Record(pending)

    async def get(self, identifier: str) -> Pending | None:
        """The question of this identifier, if it is still kept."""
        record = self._records.get(identifier)
        return record.pending if record else None

    async def claim(self, identifier: str) -> bool:
        """Take the one right to act on it; no await comes between the look and the claim."""
        record = self._records.get(identifier)
        if record is None or record.claimed_at is not None:
            return False
        record.claimed_at = self._keeping.clock()
        return True

    async def settle(self, identifier: str, outcome: Outcome) -> None:
        """Record what became of it, and wake those who wait."""
        record = self._records.get(identifier)
        if record is not None and record.outcome is None:
            record.outcome = outcome
            record.settled.set()

    async def ping(self) -> None:
        """Return: memory is always there."""

    async def aclose(self) -> None:
        """Forget everything."""
        self._records.clear()

    def _make_counters(self) -> "Counters":
        from calls_mcp.store.memory_counters import MemoryCounters  # noqa: PLC0415

        return MemoryCounters(self._keeping.clock)

    async def fate(self, identifier: str) -> Fate | None:
        """What is known of it now."""
        record = self._records.get(identifier)
        return record and Fate(record.claimed_at, record.outcome)

    async def _settled(self, identifier: str) -> Outcome:
        record = self._records[identifier]
        await record.settled.wait()
        return record.outcome or unheard()

    def _purge(self) -> None:
        now = self._keeping.clock()
        lapsed = [
            key
            for key, record in self._records.items()
            if self._keeping.forget_at(record.pending) <= now
        ]
        for key in lapsed:
            del self._records[key]

    def _idle(self, owner: str) -> Iterator[str]:
        for key, record in self._records.items():
            if record.pending.owner == owner and not record.in_flight:
                yield key

    def _forget_one_of_the_greediest(self) -> None:
        owners = (r.pending.owner for r in self._records.values() if not r.in_flight)
        for greediest, _ in Counter(owners).most_common(1):
            del self._records[next(self._idle(greediest))]
