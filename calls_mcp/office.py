"""Where the operator decides: what waits on the desk of every server that shares the store."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from time import time

import anyio

from calls_mcp.audit import AuditLog, Authority, Entry, audit_path, open_audit
from calls_mcp.catalog import load_operations
from calls_mcp.errors import ConfigurationError
from calls_mcp.redaction import one_line
from calls_mcp.settings import Settings
from calls_mcp.store import (
    Case,
    Docket,
    Fate,
    Filed,
    Keeping,
    Place,
    Queue,
    Ruling,
    Store,
    StoreUnavailable,
    open_store,
)

UNSHARED = (
    "CALLS_MCP_STATE_URL is memory:, where nobody else sees what waits for approval: set it to "
    "sqlite:///FILE or redis://…, here and for the servers."
)
_MOST = 1000  # cases
_AT_ONCE = 200  # cases
_LONGEST_REASON = 200  # characters
_LONGEST_NAME = 64
_LOST = "the state store failed: it is not known to count"


@dataclass(frozen=True, slots=True)
class Decided:
    """What came of a decision: the ruling that stands, and whether it is `ours`."""

    ruling: Ruling
    ours: bool


class Office:
    """Shows what waits, and decides; `clock` gives the time in epoch seconds."""

    def __init__(
        self, store: Store, docket: Docket, audit: AuditLog, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._docket = docket
        self._audit = audit
        self.clock = clock

    async def cases(self) -> Sequence[Filed]:
        """The newest cases, decided or not, and all that wait; the newest first.

        Raises:
            StoreUnavailable: The store can't be reached.
        """
        newest, waiting = await self._docket.listed(_MOST), await self.waiting()
        known = {filed.case.identifier for filed in newest}
        older = [filed for filed in waiting if filed.case.identifier not in known]
        return [*newest, *older[::-1]]

    async def waiting(self) -> Sequence[Filed]:
        """All that can be decided now, the oldest first.

        Raises:
            StoreUnavailable: The store can't be reached.
        """
        queue = await self.queue(_AT_ONCE)
        found = [*queue.cases]
        while queue.last:
            queue = await self.queue(_AT_ONCE, queue.last)
            found += queue.cases
        return found

    async def queue(self, most: int, after: Place | None = None) -> Queue:
        """Some of what can be decided now, the oldest first, or from `after` a place on.

        Raises:
            StoreUnavailable: The store can't be reached.
        """
        return await self._docket.waiting(most, after)

    async def mark(self) -> str:
        """What is another whenever something else waits than before.

        Raises:
            StoreUnavailable: The store can't be reached.
        """
        return await self._docket.mark()

    async def find(self, identifier: str) -> Filed | None:
        """The case of this identifier, if it is still kept.

        Raises:
            StoreUnavailable: The store can't be reached.
        """
        return await self._docket.find(identifier)

    async def fate(self, identifier: str) -> Fate | None:
        """Whether a case was acted on, and what became of that so far.

        Raises:
            StoreUnavailable: The store can't be reached.
        """
        return await self._store.fate(identifier)

    async def decide(
        self, filed: Filed, *, approve: bool, by: str, reason: str = ""
    ) -> Decided | None:
        """Decide a case, unless it is decided already; None if it has lapsed.

        The decision is recorded before it counts, and as void if then it does not.

        Raises:
            StoreUnavailable: The store can't be reached.
            AuditUnavailable: It can't be recorded, so it was not taken.
        """
        case = filed.case
        ruling = Ruling(
            is_approval=approve,
            by=one_line(by, _LONGEST_NAME),
            at=self.clock(),
            reason=one_line(reason, _LONGEST_REASON),
        )
        if filed.ruling is not None or filed.has_lapsed(self.clock()):
            return filed.ruling and Decided(filed.ruling, ours=False)
        decided: Decided | None = None
        with anyio.CancelScope(shield=True):  # what is recorded is also done
            decided = await self._ruled(case, ruling)
        return decided  # noqa: RET504  # for all that types know, a scope may swallow the return

    async def _ruled(self, case: Case, ruling: Ruling) -> Decided | None:
        entry = _entry(case, ruling)
        await self._audit.note(entry)
        try:
            standing = await self._docket.rule(case.identifier, ruling)
        except StoreUnavailable:
            await self._audit.note(replace(entry, decision="void", reason=_LOST))
            raise
        if standing == ruling:
            return Decided(ruling, ours=True)
        why = f"{standing.by} {standing.word} it before" if standing else "it had lapsed"
        await self._audit.note(replace(entry, decision="void", reason=why))
        return standing and Decided(standing, ours=False)


@asynccontextmanager
async def open_office(
    settings: Settings, clock: Callable[[], float] = time
) -> AsyncGenerator[Office]:
    """The office beside the servers that have the same settings.

    Raises:
        ConfigurationError: They keep what waits in their own memory, or the store can't be used.
    """
    url = settings.storage.url.get_secret_value()
    async with (
        open_store(url, Keeping(clock=clock)) as store,
        open_audit(audit_path(settings), settings.audit.numbers, clock) as audit,
    ):
        if store.docket is None:
            raise ConfigurationError(UNSHARED)
        yield Office(store, store.docket, audit, clock)


def _entry(case: Case, ruling: Ruling) -> Entry:
    """What is recorded of a decision. The arguments are in the record of the question."""
    return Entry(
        principal=case.binding.principal,
        operation=load_operations()[case.binding.tool],
        action=case.action,
        arguments={},
        decision="approved" if ruling.is_approval else "declined",
        rule=case.rule,
        authority=Authority("operator", ruling.by, case.identifier),
        reason=ruling.reason,
    )
