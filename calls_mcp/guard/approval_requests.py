"""Approval requests for the operator, and their decisions.

Nothing in the model's conversation can approve a request. An approved change runs once, because
its confirmation can be claimed once.
"""

import hashlib
import json
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from calls_mcp.errors import NotAttempted, OutcomeUnknown, PolicyDenied, StoreUnavailable
from calls_mcp.guard.change import Change
from calls_mcp.observability.redaction import quoted
from calls_mcp.settings import ConsoleSettings
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.records import (
    ApprovalRequest,
    Binding,
    OperatorDecision,
    PendingConfirmation,
)
from calls_mcp.tools.humanize import iso_time
from calls_mcp.tools.outcome import Confirmation, Outcome, ReportProgress

if TYPE_CHECKING:
    from calls_mcp.guard.preview import Question

_MOST_PENDING = 20  # requests of one principal
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5  # seconds between checks for a decision
_CHECKS = 20
_REMEMBERED = 3600.0  # seconds for which a new request mentions the last decision
_BEAT = 5.0  # seconds
_CALL_AGAIN = (
    "The operator has been asked to approve this{place}. Tell your user. After the approval, call "
    "this tool again with the same arguments to get the result."
)


@dataclass(frozen=True, slots=True)
class ApprovalRequests:
    """Makes requests that expire after `ttl` seconds, and waits `patience` seconds for a decision.

    An approval can be used for another `ttl` seconds. `server` names this process. `console`
    has the URL of the operator's console, if known.
    """

    storage: Storage
    ttl: float
    patience: float
    server: str
    console: ConsoleSettings

    async def current(self, binding: Binding) -> ApprovalRequest | None:
        """Return the open request for exactly this change, if there is one."""
        kept = await self.storage.get_with_ttl(_key(binding))
        return kept and await self.storage.find_request(kept[0])

    async def find(self, identifier: str) -> ApprovalRequest | None:
        """Return the request with this identifier; None if it is no longer kept."""
        return await self.storage.find_request(identifier)

    async def add(self, change: Change, question: "Question") -> ApprovalRequest:
        """Ask the operator, or return the principal's pending request for the same change.

        Raises:
            PolicyDenied: Too many of this principal's requests are pending.
        """
        identifier = secrets.token_hex(8)  # never begins with a dash
        key, now = _key(change.binding), await self.storage.now()
        if await self.storage.set_if_absent(key, 2 * self.ttl, identifier) is None:
            return await self._joined(change)
        request = ApprovalRequest(
            identifier=identifier,
            binding=change.binding,
            action=question.action,
            preview=question.preview,
            client=change.caller.client,
            rule=change.rule,
            asked_at=now,
            expires_at=now + self.ttl,
            users_too=change.requirement == "require_human",
            account_sid=change.request.account_sid,
            server=self.server,
        )
        if not await self._is_added(request, question.state):
            raise PolicyDenied(
                change.rule,
                f"{_MOST_PENDING} requests of this principal are already pending",
                "Wait until the operator has decided some of them.",
            )
        return request

    async def _is_added(self, request: ApprovalRequest, state: str) -> bool:
        """Return whether the request was added. If not, or if cancelled, delete its key."""
        pending = PendingConfirmation(
            request.binding, state, request.usable_until, for_operator=True
        )
        is_added = False
        try:
            await self.storage.add_confirmation(request.identifier, pending)
            is_added = await self.storage.add_request(request, _MOST_PENDING)
        finally:
            if not is_added:
                with anyio.CancelScope(shield=True), suppress(StoreUnavailable):
                    await self.storage.delete_if_equal(_key(request.binding), request.identifier)
        return is_added

    async def latest(self, request: ApprovalRequest) -> ApprovalRequest:
        """Wait until decisions in progress are written, then return the request."""
        return await self.storage.find_request_after_writes(request.identifier) or request

    async def wait(
        self, request: ApprovalRequest, until: float, report: ReportProgress
    ) -> ApprovalRequest:
        """Wait until the request is decided or expires, or `patience` ends, and return it.

        This takes at most half of the time until `until` (anyio's clock), because an approved
        change must still be sent.
        """
        begun, pause = anyio.current_time(), _FIRST_PAUSE
        patience = max(0.0, min(self.patience, (until - begun) / 2))
        with anyio.move_on_after(patience):
            while request.decision is None and not await self.has_expired(request):
                await report(anyio.current_time() - begun, patience, "waiting for the operator")
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                request = await self.storage.find_request(request.identifier) or request
        return request

    async def has_expired(self, request: ApprovalRequest) -> bool:
        """Return whether a request has expired without a decision."""
        return request.has_expired(await self.storage.now())

    def awaiting(self, request: ApprovalRequest) -> Outcome:
        """Return the outcome for the agent while the request is pending."""
        page = self.console.approval_page(request.identifier)
        place = f" at {page}" if page else ""
        confirmation = Confirmation(
            action=request.action,
            preview=request.preview.text,
            approval=request.identifier,
            expires_at=iso_time(request.expires_at),
        )
        return Outcome(
            outcome="awaiting_operator",
            confirmation=confirmation,
            reason=_CALL_AGAIN.format(place=place),
        )

    async def withdraw(self, request: ApprovalRequest, by: str, reason: str) -> bool:
        """Withdraw a request unless it is already decided; return whether it was withdrawn."""
        now = await self.storage.now()
        withdrawal = OperatorDecision(
            is_approval=False, by=by, at=now, reason=reason, is_withdrawal=True
        )
        made = await self.storage.decide_request(request.identifier, withdrawal)
        return made == withdrawal

    async def close(self, binding: Binding, identifier: str) -> None:
        """Close a request after its outcome is settled, so that the change can be requested again.

        If the store fails, the request stays open, and the same change gets this outcome.
        """
        last = _key(binding, "last")
        with suppress(StoreUnavailable):
            if before := await self.storage.get_with_ttl(last):
                await self.storage.delete_if_equal(last, before[0])
            await self.storage.set_if_absent(last, _REMEMBERED, identifier)
            await self.storage.delete_if_equal(_key(binding), identifier)

    async def earlier(self, binding: Binding) -> tuple[str, ...]:
        """Return what was decided about the same change before, in at most one sentence."""
        kept = await self.storage.get_with_ttl(_key(binding, "last"))
        request = kept and await self.storage.find_request(kept[0])
        if not request or request.decision is None:
            return ()
        made = request.decision
        if made.is_withdrawal:
            at = iso_time(made.at)
            return (f"The last request for this change was withdrawn by {made.by} at {at}.",)
        told = f"The same change was {made.word} by {quoted(made.by)} at {iso_time(made.at)}"
        if not made.is_approval:
            return (f"{told}.",)
        return (f"{told}; {_result(await self.storage.wait_for_outcome(request.identifier))}.",)

    async def _joined(self, change: Change) -> ApprovalRequest:
        """Wait for the request that was made first, and return it."""
        for _ in range(_CHECKS):
            if request := await self.current(change.binding):
                return request
            await anyio.sleep(_FIRST_PAUSE)
        key = _key(change.binding)
        # The first request was refused or interrupted.
        if kept := await self.storage.get_with_ttl(key):
            await self.storage.delete_if_equal(key, kept[0])
        raise NotAttempted(
            "Nothing was sent: the approval request could not be created.", "Try again."
        )


class Heartbeat:
    """Shows other processes that `server`, which made approval requests, is still running.

    It has a key for each period of five seconds. A key outlives the next period, so a heartbeat
    that is late does not count as missing. Each method raises StoreUnavailable if the store can't
    be reached.
    """

    def __init__(self, storage: Storage, server: str) -> None:
        self._storage = storage
        self._server = server
        self._last = ""

    async def beat(self) -> None:
        """Note that the process runs."""
        key = _beat(self._server, await self._storage.now())
        if key != self._last:
            await self._storage.set_if_absent(key, 2 * _BEAT, self._server)
            self._last = key

    async def stop(self) -> None:
        """Note that the process is about to stop."""
        self._last = ""
        for key in _beats(self._server, await self._storage.now()):
            await self._storage.delete_if_equal(key, self._server)


async def is_alive(storage: Storage, server: str) -> bool:
    """Return whether the process `server` wrote a heartbeat in the last few seconds.

    Raises:
        StoreUnavailable: The store can't be reached.
    """
    for key in _beats(server, await storage.now()):
        if await storage.get_with_ttl(key) is not None:
            return True
    return False


def _beats(server: str, now: float) -> tuple[str, str]:
    return _beat(server, now), _beat(server, now - _BEAT)


def _beat(server: str, now: float) -> str:
    return f"server:{server}:{now // _BEAT:.0f}"


def _result(outcome: Outcome) -> str:
    if outcome.outcome == "done":
        return f"it was done ({outcome.call.sid})" if outcome.call else "it was done"
    if outcome.error_kind == OutcomeUnknown.kind:
        return "it is unknown whether it was done"
    return "it was not done"


def _key(binding: Binding, kind: str = "case") -> str:
    exact = json.dumps([binding.tool, binding.arguments, binding.principal])
    return f"{kind}:{hashlib.sha256(exact.encode()).hexdigest()}"
