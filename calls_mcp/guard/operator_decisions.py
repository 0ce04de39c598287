"""The operator's side of approval requests, for all servers that share the store."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from time import time

import anyio

from calls_mcp.audit.log import AuditLog, audit_path, open_audit
from calls_mcp.audit.records import Authority, Entry
from calls_mcp.errors import ConfigurationError, StoreUnavailable
from calls_mcp.guard.approval_requests import is_alive
from calls_mcp.observability.redaction import one_line
from calls_mcp.settings import OUTCOME_GRACE, Settings
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.records import (
    ApprovalRequest,
    OperatorDecision,
    PendingPage,
    Position,
    StorageOptions,
)
from calls_mcp.tools.catalog import load_operations
from calls_mcp.tools.outcome import Outcome

UNSHARED = (
    "CALLS_MCP_STATE_URL is memory:, so other processes can't see approval requests. Unset it, or "
    "set it to sqlite:///FILE or redis://…, here and for the servers."
)
_STOPPED = (
    "The server that asked has stopped. If you approve this, the change is made when the agent "
    "retries."
)
_RUNNING = "Running now."
_RUNS_LATER = "It runs when the agent retries."
_SEEN_LATER = "The agent sees this when it retries."
_UNSEEN = "The agent did not retry, so it did not see this."
_UNUSED = "The agent did not retry in time, so nothing happened."
_LOST_OUTCOME = (
    "The server stopped before it recorded a result. Check the calls to see whether this happened."
)
_CHECK_AGAIN = 0.1  # seconds
_MOST = 1000  # requests
_AT_ONCE = 200  # requests
_LONGEST_REASON = 200  # characters
_LONGEST_NAME = 64
_LOST = "the state store failed, so it is unknown whether the decision counts"


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision that counts, and whether it is `ours`."""

    decision: OperatorDecision
    ours: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a request: what happens next or has happened, and the outcome, if any.

    `is_running` is whether an outcome is expected soon.
    """

    text: str
    outcome: Outcome | None = None
    is_running: bool = False


@dataclass(frozen=True, slots=True)
class Approvals:
    """Shows and decides approval requests.

    A change that has no outcome after `outcome_timeout` seconds was interrupted.

    Each method raises StoreUnavailable if the store can't be reached.
    """

    storage: Storage
    audit: AuditLog
    outcome_timeout: float

    @property
    def where(self) -> str:
        """The store of the requests: a file, or a Redis URL without its password."""
        return self.storage.where

    async def now(self) -> float:
        """Return the time of the store, by which requests expire."""
        return await self.storage.now()

    async def requests(self) -> Sequence[ApprovalRequest]:
        """Return the newest requests and all pending ones, newest first."""
        newest = await self.storage.newest_requests(_MOST)
        known = {request.identifier for request in newest}
        pending = await self.pending()
        return [*newest, *(each for each in reversed(pending) if each.identifier not in known)]

    async def pending(self) -> Sequence[ApprovalRequest]:
        """Return all pending requests, oldest first."""
        page = await self.page(_AT_ONCE)
        found = [*page.requests]
        while page.last:
            page = await self.page(_AT_ONCE, page.last)
            found += page.requests
        return found

    async def page(self, most: int, after: Position | None = None) -> PendingPage:
        """Return up to `most` pending requests, oldest first, starting after a position."""
        return await self.storage.pending_requests(most, after)

    async def newest(self, most: int) -> Sequence[ApprovalRequest]:
        """Return up to `most` requests of any state, newest first."""
        return await self.storage.newest_requests(most)

    async def pending_version(self) -> str:
        """Return a string that changes whenever the set of pending requests changes."""
        return await self.storage.pending_version()

    async def find(self, identifier: str) -> ApprovalRequest | None:
        """Return the request with this identifier; None if it is no longer kept."""
        return await self.storage.find_request(identifier)

    async def progress(self, request: ApprovalRequest) -> Progress:
        """Return the progress of a request."""
        now, made = await self.now(), request.decision
        if made is None:
            is_stopped = not (request.has_expired(now) or await self._is_attended(request))
            return Progress(_STOPPED if is_stopped else "")
        state = await self.storage.confirmation_state(request.identifier)
        if state is not None and state.outcome is not None:
            return Progress(_summary(state.outcome), state.outcome)
        if state is not None and state.claimed_at is not None:
            is_lost = now > state.claimed_at + self.outcome_timeout
            return Progress(_LOST_OUTCOME if is_lost else _RUNNING, is_running=not is_lost)
        is_forgotten = now >= 2 * request.expires_at - request.asked_at
        if not made.is_approval:
            return Progress(_UNSEEN if is_forgotten else _SEEN_LATER)
        if is_forgotten:
            return Progress(_UNUSED)
        is_running = await self._is_attended(request)
        return Progress(_RUNNING if is_running else _RUNS_LATER, is_running=is_running)

    async def result(self, request: ApprovalRequest, seconds: float) -> Progress:
        """Wait for the outcome of an approved request, for up to `seconds`, and return it."""
        progress = await self.progress(request)
        with anyio.move_on_after(seconds):
            while progress.is_running:
                await anyio.sleep(_CHECK_AGAIN)
                progress = await self.progress(request)
        return progress

    async def _is_attended(self, request: ApprovalRequest) -> bool:
        """Return whether the process that asked is still running."""
        return await is_alive(self.storage, request.server)

    async def decide(
        self, request: ApprovalRequest, *, approve: bool, by: str, reason: str = ""
    ) -> Decided | None:
        """Decide a request unless it is already decided. Return None if it has expired.

        The decision is recorded before it counts, because a later record could come after that of
        the change it allows. If it then does not count, it is also recorded as void.

        Raises:
            StoreUnavailable: The store can't be reached.
            AuditUnavailable: The decision can't be recorded, so it was not made.
        """
        now = await self.now()
        if request.decision is not None:
            return Decided(request.decision, ours=False)
        if request.has_expired(now):
            return None
        by, reason = one_line(by, _LONGEST_NAME), one_line(reason, _LONGEST_REASON)
        decision = OperatorDecision(is_approval=approve, by=by, at=now, reason=reason)
        decided: Decided | None = None
        with anyio.CancelScope(shield=True):  # a recorded decision must also be made
            decided = await self._decided(request, decision)
        return decided  # noqa: RET504  # type checkers think that a scope may swallow a return

    async def _decided(
        self, request: ApprovalRequest, decision: OperatorDecision
    ) -> Decided | None:
        entry = _entry(request, decision)
        await self.audit.record(entry)
        try:
            made = await self.storage.decide_request(request.identifier, decision)
        except StoreUnavailable:
            await self.audit.record(replace(entry, decision="void", reason=_LOST))
            raise
        if made == decision:
            return Decided(decision, ours=True)
        why = f"{made.by} had already {made.word} it" if made else "it had expired"
        await self.audit.record(replace(entry, decision="void", reason=why))
        return made and Decided(made, ours=False)


@asynccontextmanager
async def open_approvals(
    settings: Settings, clock: Callable[[], float] = time, *, sandbox: bool = False
) -> AsyncGenerator[Approvals]:
    """Open the approval requests of servers with the same settings.

    Raises:
        ConfigurationError: The store is in memory, or can't be used.
    """
    if settings.storage.is_memory:
        raise ConfigurationError(UNSHARED)
    record = audit_path(settings, sandbox=sandbox)
    options, url = StorageOptions(clock=clock), settings.storage.location
    async with (
        open_storage(url, options, sandbox=sandbox, is_needed=True) as storage,
        open_audit(record, settings.audit.numbers, clock) as audit,
    ):
        yield Approvals(storage, audit, settings.twilio.deadline + OUTCOME_GRACE)


async def count_in_other_default(settings: Settings, *, sandbox: bool) -> int:
    """Return how many requests are pending in the other default database.

    That is the sandbox's or, with `sandbox`, the normal one. Return 0 if a setting names the store.
    """
    if settings.storage.location is not None:
        return 0
    with suppress(StoreUnavailable):
        async with open_storage(sandbox=not sandbox) as storage:
            return (await storage.pending_requests(1)).count
    return 0


def _summary(outcome: Outcome) -> str:
    if outcome.outcome == "done":
        return f"Done ({outcome.call.sid})." if outcome.call else "Done."
    return outcome.error.message if outcome.error else outcome.reason or ""


def _entry(request: ApprovalRequest, decision: OperatorDecision) -> Entry:
    """Return the audit entry of a decision. The record of the request has the arguments."""
    return Entry(
        principal=request.binding.principal,
        operation=load_operations()[request.binding.tool],
        action=request.action,
        arguments={},
        decision="approved" if decision.is_approval else "denied",
        rule=request.rule,
        authority=Authority("operator", decision.by, request.identifier),
        reason=decision.reason,
    )
