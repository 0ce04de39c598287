"""Confirmations. Each is issued with a preview, expires, and can be used once."""

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from calls_mcp.errors import InvalidConfirmation, PolicyDenied
from calls_mcp.guard.change import Stop
from calls_mcp.guard.signing import Signer
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.records import Binding, PendingConfirmation
from calls_mcp.tools.humanize import iso_time
from calls_mcp.tools.outcome import Confirmation, Outcome

if TYPE_CHECKING:
    from calls_mcp.guard.preview import Question

_FORGOTTEN = (
    "This confirmation is no longer stored, so the server can't tell whether it was used. Nothing "
    "was sent now. Check with list_calls or fetch_call whether the change was made. If not, call "
    "without confirmation_token to get a new preview."
)
_RESTORED = (
    "The state store has been restarted or restored since this preview, so this server can't tell "
    "whether the confirmation was used. Nothing was sent now. Check with list_calls or fetch_call "
    "whether the change was made. If not, call without confirmation_token to get a new preview."
)
_SPENT = "This used up the confirmation. Retry without confirmation_token for a new preview."
_ANEW = "This needs a new request."
_AGAIN = "To start over, retry without confirmation_token."
_REPLAYED = (
    "this confirmation was already used, so nothing was sent now; "
    "this is the result of its first use"
)
_RAN = "the change was sent when the operator approved it; this is its result"


@dataclass(frozen=True, slots=True)
class Claim:
    """The exclusive right to act on a confirmation. Its holder must settle it.

    `state` is the state that the preview showed, which must not have changed.
    """

    identifier: str
    state: str


@dataclass(frozen=True, slots=True)
class Confirmations:
    """Issues confirmations that expire after `ttl` seconds, by the time of the store."""

    storage: Storage
    signer: Signer
    ttl: float

    async def issue(self, question: "Question", binding: Binding) -> Confirmation:
        """Return a new confirmation, to show to the user."""
        identifier = secrets.token_urlsafe(9)
        expires_at = await self.storage.now() + self.ttl
        pending = PendingConfirmation(binding, question.state, expires_at)
        await self.storage.add_confirmation(identifier, pending)
        return Confirmation(
            action=question.action,
            preview=question.preview.text,
            token=self.signer.sign(identifier),
            expires_at=iso_time(expires_at),
        )

    def verify(self, token: str) -> str:
        """Return the identifier of the confirmation with this token.

        Raises:
            InvalidConfirmation: It is not a token of this server.
        """
        identifier = self.signer.verify(token)
        if identifier is None:
            raise InvalidConfirmation(
                "Nothing was sent: this server did not issue this confirmation_token.",
                "Send the token exactly as you received it, or retry without it to start over.",
            )
        return identifier

    async def find(self, identifier: str, binding: Binding) -> PendingConfirmation | None:
        """Return a confirmation, used or not, if it is still known.

        Raises:
            InvalidConfirmation: It does not match `binding`.
        """
        pending = await self.storage.find_confirmation(identifier)
        if pending is not None:
            _require_same(pending.binding, binding)
        return pending

    async def is_usable(self, identifier: str, pending: PendingConfirmation) -> bool:
        """Return whether a confirmation has neither expired nor been used."""
        if await self._has_expired(pending):
            return False
        state = await self.storage.confirmation_state(identifier)
        return state is None or state.claimed_at is None

    async def claim(self, identifier: str, pending: PendingConfirmation | None) -> Claim | Stop:
        """Return the exclusive right to act on a confirmation, or why there is none."""
        if pending is None:
            return Stop("expired", Outcome(outcome="expired", reason=_FORGOTTEN))
        if not await self._is_claimed_now(identifier):
            state = await self.storage.confirmation_state(identifier)
            if state is not None and state.claimed_at is None:
                return Stop("expired", Outcome(outcome="expired", reason=_RESTORED))
            outcome = await self.storage.wait_for_outcome(identifier)
            warning = _RAN if pending.for_operator else _REPLAYED
            return Stop("replayed", outcome.with_warnings([warning]))
        if await self._has_expired(pending):
            outcome = expired("The confirmation has expired.", by_operator=pending.for_operator)
            return Stop("expired", await self.settle(identifier, outcome))
        return Claim(identifier, pending.state)

    async def end(self, identifier: str, outcome: Outcome) -> None:
        """Settle a confirmation that will not be used, unless it has been used."""
        if await self._is_claimed_now(identifier):
            await self.settle(identifier, outcome)

    async def is_claimed(self, identifier: str) -> bool:
        """Return whether a confirmation has been used, or is no longer stored."""
        state = await self.storage.confirmation_state(identifier)
        return state is None or state.claimed_at is not None

    async def settle(self, identifier: str, outcome: Outcome) -> Outcome:
        """Record the outcome of a claimed confirmation even if cancelled, and return it."""
        with anyio.CancelScope(shield=True):
            await self.storage.record_outcome(identifier, outcome)
        return outcome

    async def _is_claimed_now(self, identifier: str) -> bool:
        is_claimed = False
        with anyio.CancelScope(shield=True):  # an unknown claim would never be settled
            is_claimed = await self.storage.claim_confirmation(identifier)
        return is_claimed  # noqa: RET504  # type checkers think that a scope may swallow a return

    async def _has_expired(self, pending: PendingConfirmation) -> bool:
        return await self.storage.now() >= pending.expires_at


def expired(why: str, *, by_operator: bool = False) -> Outcome:
    """Return the outcome of a confirmation that expired; operators read those `by_operator`."""
    return Outcome(
        outcome="expired", reason=f"{why} Nothing was sent. {_ANEW if by_operator else _AGAIN}"
    )


def as_used(outcome: Outcome) -> Outcome:
    """Return a failure with the hint that its token can't be used again."""
    error = outcome.error
    if error is None or not (error.retryable or error.kind == PolicyDenied.kind):
        return outcome
    hint = f"{error.hint} {_SPENT}"
    error = error.model_copy(update={"retryable": False, "hint": hint})
    return outcome.model_copy(update={"error": error})


def _require_same(asked: Binding, now: Binding) -> None:
    differences = {
        f"the confirmation is for {asked.tool}, not {now.tool}": asked.tool != now.tool,
        "the confirmation was issued to another principal": asked.principal != now.principal,
        "the arguments differ from the confirmed ones": asked.arguments != now.arguments,
    }
    wrong = next((why for why, differs in differences.items() if differs), None)
    if wrong is not None:
        raise InvalidConfirmation(f"Nothing was sent: {wrong}.", _AGAIN)
