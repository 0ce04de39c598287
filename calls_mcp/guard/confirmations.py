"""Confirmations: issued for a question, good once, for what was asked, for a while."""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from calls_mcp.errors import InvalidConfirmation, InvocationError
from calls_mcp.guard.preview import Question
from calls_mcp.guard.signing import Seal
from calls_mcp.storage import Binding, PendingConfirmation, Storage
from calls_mcp.tools.outcome import Confirmation, Outcome, iso_time

_FORGOTTEN = (
    "This server no longer knows the confirmation, nor whether it was used before. Now, nothing "
    "was sent. Look first, with list_calls or fetch_call, whether it has been done; if it has not, "
    "call without confirmation_token for a new preview."
)
_AGAIN = "Call the tool again, without any confirmation_token, to begin anew."


@dataclass(frozen=True, slots=True)
class Claim:
    """The one right to act on a confirmation; whoever holds it must settle it."""

    identifier: str
    state: str


@dataclass(frozen=True, slots=True)
class Used:
    """What became of a confirmation that was used before, as it is told again."""

    outcome: Outcome


class Confirmations:
    """Issues confirmations that lapse after `ttl` seconds by `clock` (epoch seconds)."""

    def __init__(
        self, storage: Storage, seal: Seal, ttl: float, clock: Callable[[], float]
    ) -> None:
        self._storage = storage
        self._seal = seal
        self._ttl = ttl
        self._clock = clock

    async def issue(self, question: Question, binding: Binding) -> Confirmation:
        """A confirmation of `question`, to be shown to the user."""
        identifier = secrets.token_urlsafe(9)
        expires_at = self._clock() + self._ttl
        await self._storage.add_confirmation(
            identifier, PendingConfirmation(binding, question.state, expires_at)
        )
        return Confirmation(
            action=question.action,
            preview=question.preview,
            token=self._seal.sign(identifier),
            expires_at=iso_time(expires_at),
        )

    async def claim(
        self, token: str, binding: Binding, require_ready: Callable[[], Awaitable[None]]
    ) -> Claim | Used | Outcome:
        """The right to act, or what became of an earlier use, or that the token has lapsed.

        Raises:
            InvalidConfirmation: The token is not one for this invocation.
            InvocationError: What `require_ready` raises, unless the token was used before or is
                too late; it can be used later.
        """
        identifier = self._seal.verify(token)
        if identifier is None:
            raise InvalidConfirmation(
                "Nothing was sent: this server did not issue that confirmation_token.",
                f"Send the token exactly as it was given. {_AGAIN}",
            )
        return await self.claim_requested(identifier, binding, require_ready)

    async def claim_requested(
        self, identifier: str, binding: Binding, require_ready: Callable[[], Awaitable[None]]
    ) -> Claim | Used | Outcome:
        """Like `claim`, of what nobody has a token for.

        Raises:
            InvocationError: As with `claim`.
        """
        pending = await self._storage.find_confirmation(identifier)
        if pending is None:
            return Outcome(outcome="expired", reason=_FORGOTTEN)
        _require(pending.binding, binding)
        if self._clock() < pending.expires_at:
            await self._unless_used(identifier, require_ready)
        if not await self._win(identifier):
            return Used(_told_again(await self._storage.wait_for_outcome(identifier)))
        if self._clock() < pending.expires_at:
            return Claim(identifier, pending.state)
        return await self.settle(identifier, expired("The confirmation was not used in time."))

    async def _unless_used(
        self, identifier: str, require_ready: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            await require_ready()
        except InvocationError:
            state = await self._storage.confirmation_state(identifier)
            if state is None or state.claimed_at is None:
                raise

    async def _win(self, identifier: str) -> bool:
        is_won = False
        with anyio.CancelScope(shield=True):  # a claim that nobody knows of is never settled
            is_won = await self._storage.claim_confirmation(identifier)
        return is_won  # noqa: RET504  # for all that types know, a scope may swallow the return

    async def settle(self, identifier: str, outcome: Outcome) -> Outcome:
        """Record what became of a claimed confirmation, cancelled or not, and return it."""
        with anyio.CancelScope(shield=True):
            await self._storage.record_outcome(identifier, outcome)
        return outcome


def expired(why: str) -> Outcome:
    """The outcome of a confirmation that lapsed."""
    return Outcome(outcome="expired", reason=f"{why} Nothing was sent. {_AGAIN}")


def _require(asked: Binding, now: Binding) -> None:
    differences = {
        f"it is for {asked.tool}, not {now.tool}": asked.tool != now.tool,
        "it was given to somebody else": asked.principal != now.principal,
        "the arguments are not those that were confirmed": asked.arguments != now.arguments,
    }
    wrong = next((why for why, differs in differences.items() if differs), None)
    if wrong is not None:
        raise InvalidConfirmation(f"Nothing was sent: {wrong}.", _AGAIN)


def _told_again(outcome: Outcome) -> Outcome:
    warning = "this confirmation was used before; this is that use's outcome, nothing new was sent"
    return outcome.with_warnings([warning])
