"""The sessions of operators, who sign in with a link that works once or with a bearer token."""

import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import cast

from starlette.authentication import AuthenticationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from calls_mcp.http.authentication import Verifier
from calls_mcp.service.authorization import APPROVE, Grant, is_operator
from calls_mcp.storage import ApprovalRequest, Limit
from calls_mcp.storage.rate_limiter import RateLimiter

_log = logging.getLogger(__name__)

SESSION_SECONDS = 12 * 3600
BAD_LINK = "That is no link that is good now."
_LINK_SECONDS = 600
_MAX_LINKS = 20
_MAX_SESSIONS = 100
_MAX_FAILURES, _FAILURE_WINDOW = 20, 60  # per address, seconds
_RETRY_AFTER = 10  # seconds
_BAD_TOKEN = "That is no token that is good now."  # noqa: S105  # a message
_MISSING_SCOPE = f"That token does not have the scope {APPROVE}."
_EXCESS_SCOPE = f"That token is for tools as well: {APPROVE} counts only in one that has no other."
_NOT_VERIFIABLE = "Whether that token is good can't be told just now."
_TOO_MANY = "Too many tokens from there were no good."


@dataclass(frozen=True, slots=True)
class Session:
    """A session of an operator; each of its forms must contain `csrf`.

    Attributes:
        expires_at: In epoch seconds.
        grant: What the operator's token grants, if they signed in with one.
        key: The key under which the session is stored; empty if it is for one request.
    """

    name: str
    csrf: str
    expires_at: float
    grant: Grant | None = None
    key: str = ""

    @property
    def may_invite(self) -> bool:
        """Whether they can create links. A token is only for the principal that it stands for."""
        return self.grant is None

    @property
    def principal(self) -> str:
        """The principal of the tools that they use here."""
        return f"console: {self.name}"

    def may_approve(self, request: ApprovalRequest) -> bool:
        """Return whether they may approve a request: where only an operator may, not their own.

        Links tell no principals apart, so this only holds for tokens.
        """
        is_own = request.binding.principal in (self.name, self.principal)
        return self.grant is None or request.users_too or not is_own


class Sessions:
    """Stores links and sessions by the hashes of their secrets.

    `clock` returns the time in epoch seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._links: dict[str, tuple[str, float]] = {}
        self._sessions: dict[str, Session] = {}

    def create_link(self, name: str) -> str:
        """Return the secret of a link with which somebody can sign in as `name`, once."""
        secret = secrets.token_urlsafe(32)
        self._links[_hash(secret)] = name, self._clock() + _LINK_SECONDS
        while len(self._links) > _MAX_LINKS:
            del self._links[next(iter(self._links))]
        return secret

    def open_by_link(self, link: str) -> str:
        """Return the secret of a new session, and use the link up.

        Raises:
            HTTPException: The link is unknown, used or expired.
        """
        name, expires_at = self._links.pop(_hash(link), ("", 0.0))
        if not name or self._clock() >= expires_at:
            raise HTTPException(401, BAD_LINK)
        return self._open(name, None)

    def open_by_grant(self, grant: Grant) -> str:
        """Return the secret of a new session, which ends with the token of this grant."""
        return self._open(grant.principal, grant)

    def for_request(self, grant: Grant) -> Session:
        """Return a session for a single request with a token."""
        return self._session(grant.principal, grant, "")

    async def find(self, secret: str) -> Session | None:
        """Return the session with this secret, if it is valid."""
        session = self._sessions.get(_hash(secret))
        if session is None or await self.is_valid(session):
            return session
        self._sessions.pop(session.key, None)
        return None

    async def is_valid(self, session: Session) -> bool:
        """Return whether a session has neither expired nor ended, and its token is still valid."""
        is_open = not session.key or self._sessions.get(session.key) is session
        if not is_open or self._clock() >= session.expires_at:
            return False
        if session.grant is None:
            return True
        renewed = await session.grant.renewed()
        return renewed is not None and is_operator(renewed.scopes)

    def end(self, secret: str) -> None:
        """End a session."""
        self._sessions.pop(_hash(secret), None)

    def _open(self, name: str, grant: Grant | None) -> str:
        secret, now = secrets.token_urlsafe(32), self._clock()
        self._sessions = {key: s for key, s in self._sessions.items() if s.expires_at > now}
        while len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        key = _hash(secret)
        self._sessions[key] = self._session(name, grant, key)
        return secret

    def _session(self, name: str, grant: Grant | None, key: str) -> Session:
        expires_at = self._clock() + SESSION_SECONDS
        expires_at = min(expires_at, grant.expiry) if grant else expires_at
        return Session(name, secrets.token_urlsafe(32), expires_at, grant, key)


class TokenAuthenticator:
    """Authenticates operators by the bearer tokens of the HTTP service.

    An address with too many bad tokens in a minute is refused for the rest of it, with good ones
    too; `clock` returns the time in epoch seconds.
    """

    def __init__(
        self, verifier: Verifier, limiter: RateLimiter, clock: Callable[[], float]
    ) -> None:
        self._verifier = verifier
        self._limiter = limiter
        self._clock = clock
        self._blocked_until: dict[str, float] = {}

    async def authenticate(self, token: str, address: str) -> Grant:
        """Return what a token grants to an operator.

        Raises:
            HTTPException: The token is not an operator's, can't be verified now, or comes from an
                address that is blocked.
        """
        wait = self._blocked_until.get(address, 0.0) - self._clock()
        if wait > 0:
            raise HTTPException(429, _TOO_MANY, {"Retry-After": str(ceil(wait))})
        try:
            grant = await self._verifier.verify_token(token)
        except AuthenticationError:
            raise HTTPException(503, _NOT_VERIFIABLE, {"Retry-After": str(_RETRY_AFTER)}) from None
        if grant is not None and grant.expiry <= time.time():
            grant = None  # in the HTTP service, the SDK checks that
        if grant is not None and is_operator(grant.scopes):
            return grant
        refusal = _refusal(grant)
        who = grant.principal if grant else "unknown"
        _log.warning("The console let nobody in, from %s (%s): %s", address, who, refusal.detail)
        await self._count_failure(address)
        raise refusal

    async def _count_failure(self, address: str) -> None:
        limit = Limit("console", _MAX_FAILURES, _FAILURE_WINDOW, address)
        exhausted = await self._limiter.hit([limit])
        now = self._clock()
        self._blocked_until = {each: at for each, at in self._blocked_until.items() if at > now}
        if exhausted:
            self._blocked_until[address] = now + exhausted.retry_after


def session_of(request: Request) -> Session:
    """Return the session of a request that access control has let pass."""
    return cast("Session", request.state.session)


def _refusal(grant: Grant | None) -> HTTPException:
    # No scope is named in the header: an agent's client would go and get a token with it.
    if grant is None:
        return HTTPException(401, _BAD_TOKEN, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
    message = _EXCESS_SCOPE if APPROVE in grant.scopes else _MISSING_SCOPE
    return HTTPException(403, message, {"WWW-Authenticate": 'Bearer error="insufficient_scope"'})


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
