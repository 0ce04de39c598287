"""The bearer tokens of the HTTP service, as a way into the console."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from starlette.authentication import AuthenticationError

from calls_mcp.http.verifier import Verifier
from calls_mcp.service.grants import APPROVE, Grant, is_operators
from calls_mcp.storage import Limit
from calls_mcp.storage.rate_limiter import RateLimiter

_log = logging.getLogger(__name__)

_MOST, _MINUTE = 20, 60  # failures, seconds
_RETRY_AFTER = 10  # seconds
_UNKNOWN = "That is no token that is good now."
_TOO_LITTLE = f"That token does not have the scope {APPROVE}."
_TOO_MUCH = f"That token is for tools as well: {APPROVE} counts only in one that has no other."
_LATER = "Whether that token is good can't be told just now."
_TOO_MANY = "Too many tokens from there were no good."


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a token lets nobody in; `error` is its name by RFC 6750, `wait` in seconds."""

    status: int
    words: str
    error: str = ""
    wait: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """What a program is told. No scope is named: a client would go and get a token with it."""
        told = {"WWW-Authenticate": f'Bearer error="{self.error}"'} if self.error else {}
        return told | ({"Retry-After": str(self.wait)} if self.wait else {})


class Tokens:
    """Lets operators in by tokens, and tries no more than some bad ones a minute.

    Those are counted by the address that they come from; `clock` gives epoch seconds.
    """

    def __init__(self, verifier: Verifier, rates: RateLimiter, clock: Callable[[], float]) -> None:
        self._verifier = verifier
        self._rates = rates
        self._clock = clock
        self._shut: dict[str, float] = {}

    async def admit(self, token: str, address: str) -> Grant | Refusal:
        """What it grants an operator, or why it lets nobody in."""
        wait = self._shut.get(address, 0.0) - self._clock()
        if wait > 0:
            return Refusal(429, _TOO_MANY, wait=ceil(wait))
        try:
            grant = await self._verifier.verify_token(token)
        except AuthenticationError:
            return Refusal(503, _LATER, wait=_RETRY_AFTER)
        if grant is not None and grant.ends_at <= time.time():
            grant = None  # for a request of the service's, the SDK sees to that
        if grant is not None and is_operators(grant.scopes):
            return grant
        refusal = _refusal(grant)
        _log.warning(
            "The console let nobody in, from %s (%s): %s",
            address,
            grant.principal if grant else "unknown",
            refusal.words,
        )
        await self._note(address)
        return refusal

    async def _note(self, address: str) -> None:
        """Count a failure; with the last of a minute's, shut the door for a while."""
        exhausted = await self._rates.hit([Limit("console", _MOST, _MINUTE, address)])
        now = self._clock()
        self._shut = {where: until for where, until in self._shut.items() if until > now}
        if exhausted:
            self._shut[address] = now + exhausted.retry_after


def _refusal(grant: Grant | None) -> Refusal:
    if grant is None:
        return Refusal(401, _UNKNOWN, "invalid_token")
    return Refusal(403, _TOO_MUCH if APPROVE in grant.scopes else _TOO_LITTLE, "insufficient_scope")
