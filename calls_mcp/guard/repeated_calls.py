"""Protection against calling a number twice by mistake.

A mark is stored before a call is sent, so that it survives a crash, and says that the call may have
been placed. Another mark says that the number was called recently, as the policy requires.
"""

from collections import Counter
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_urlsafe

from calls_mcp.errors import OutcomeNotStored, StoreUnavailable
from calls_mcp.observability.redaction import quoted
from calls_mcp.storage.interface import Storage
from calls_mcp.tools.humanize import about, formatted
from calls_mcp.tools.outcome import Risk

_LONGEST_PARTY = 64  # characters


@dataclass(frozen=True, slots=True)
class EarlierCalls:
    """Recent calls to the same number. After these, a call always needs a confirmation.

    `reasons` are sentences for the preview. `ids` identify the calls, so that a later check can
    detect new ones. `risks` say how often the number was called, which needs no confirmation.
    `last` identifies the last call to each party, however long ago in the past week.
    """

    reasons: tuple[str, ...] = ()
    ids: frozenset[str] = frozenset()
    risks: tuple[Risk, ...] = ()
    last: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Mark:
    """A text stored under `key`. It replaced `before`, which had `ttl` seconds left."""

    key: str
    text: str
    before: str = ""
    ttl: float = 0


@dataclass(frozen=True, slots=True)
class RepeatedCalls:
    """Marks the numbers that an account and its subaccounts call.

    For `uncertain` seconds after it was sent, a call counts as possibly placed. For `confirmed`
    seconds after a call, its number needs a confirmation; 0 means never. All methods get a party
    once for each call to it.
    """

    storage: Storage
    account_sid: str
    uncertain: float
    confirmed: int

    async def find(self, parties: Sequence[str]) -> EarlierCalls:
        """Return the recent calls to the same parties, and those that the change itself repeats."""
        found: dict[str, str] = {}
        times = Counter(parties)
        for party in times:
            found |= await self._find(party, _same(party, times))
            if self.confirmed and times[party] > 1:
                again = f"This calls or messages {_same(party, times)} {times[party]} times."
                found[again] = again
        return EarlierCalls(tuple(filter(None, found.values())), frozenset(found))

    async def mark(self, parties: Sequence[str], known: frozenset[str]) -> tuple[Mark, ...] | None:
        """Set all marks and return them; None if a call that is not `known` has one of them.

        All servers set the marks in the same order and stop at the first failure, so exactly one of
        several simultaneous calls gets all of them.
        """
        marks: list[Mark] = []
        now = await self.storage.now()
        try:
            for key, ttl, text in self._marks(parties, now):
                mark = await self._set(key, ttl, text, known)
                if mark is None:
                    await self.unmark(marks)
                    return None
                marks.append(mark)
        except StoreUnavailable:
            with suppress(StoreUnavailable):
                await self.unmark(marks)
            raise
        return tuple(marks)

    async def unmark(self, marks: Sequence[Mark]) -> None:
        """Remove marks, and restore those that they replaced."""
        for mark in marks:
            await self.storage.delete_if_equal(mark.key, mark.text)
            if mark.before:
                await self.storage.set_if_absent(mark.key, mark.ttl, mark.before)

    async def confirm(self, marks: Sequence[Mark], parties: Sequence[str]) -> None:
        """Keep only the marks of a call that was certainly placed."""
        sent = {self._sent_key(party) for party in parties}
        await self.unmark([mark for mark in marks if mark.key in sent])

    async def _find(self, party: str, named: str) -> dict[str, str]:
        """Return the ids of recent calls to `party`, with a sentence for the preview."""
        placed_key = self._placed_key(party)
        placed = await self.storage.get_with_ttl(placed_key) if self.confirmed else None
        sent = await self.storage.get_with_ttl(self._sent_key(party))
        found: dict[str, str] = {}
        if sent is not None:
            found[sent[0]] = sent[0].partition("\0")[0]
        if placed is not None:
            rule = f"A second call within {about(self.confirmed)} needs a confirmation."
            reason = f"A call to {named} was placed recently. {rule}"
            found[placed[0]] = "" if sent else reason  # one sentence for each call is enough
        return found

    def _marks(self, parties: Sequence[str], now: float) -> Iterator[tuple[str, float, str]]:
        """Yield the key of each mark, its time to live in seconds, and its text."""
        at = datetime.fromtimestamp(now, UTC).strftime("%H:%M:%S UTC")
        different = dict.fromkeys(parties)
        for party in different:
            sent = f"A call to {_same(party, different)} was sent at {at} and may have been placed"
            why = f"{sent}, so the phone may ring twice."
            yield self._sent_key(party), self.uncertain, f"{why}\0{token_urlsafe(9)}"
            if self.confirmed:
                yield self._placed_key(party), self.confirmed, ""

    async def _set(self, key: str, ttl: float, text: str, known: frozenset[str]) -> Mark | None:
        """Set a mark, replacing a `known` one. Return None if there is another one."""
        if own := await self.storage.set_if_absent(key, ttl, text):
            return Mark(key, own)
        before, left = await self.storage.get_with_ttl(key) or ("", 0.0)
        if before not in known:
            return None
        with before_sending():
            if not await self.storage.delete_if_equal(key, before):
                return None
        own = await self.storage.set_if_absent(key, ttl, text)
        return Mark(key, own, before, left) if own else None

    def _placed_key(self, party: str) -> str:
        return f"number:{self.account_sid}:{party}"

    def _sent_key(self, party: str) -> str:
        return f"sent:{self.account_sid}:{party}"


@contextmanager
def before_sending() -> Generator[None]:
    """Raise StoreUnavailable instead of OutcomeNotStored, because nothing was sent yet."""
    try:
        yield
    except OutcomeNotStored as error:
        raise StoreUnavailable(error.for_operator) from error


def named(party: str) -> str:
    """Return a party as people write it, or in quotes if it is not a number."""
    number = formatted(party)
    return number if number != party else quoted(party, _LONGEST_PARTY)


def noun(party: str) -> str:
    """Return `number` or `address`, whichever the party is."""
    return "number" if party.startswith("+") else "address"


def _same(party: str, parties: Collection[str]) -> str:
    return f"the same {noun(party)}" if len(parties) == 1 else named(party)
