"""The sessions of operators, who sign in with a single-use link or a bearer token."""

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import cast

from starlette.authentication import AuthenticationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from calls_mcp.http.authentication import TokenVerifier
from calls_mcp.service.grants import APPROVE, Grant, is_operator, normalized
from calls_mcp.storage.rate_limits import Limit, RateLimiter
from calls_mcp.storage.records import ApprovalRequest

_log = logging.getLogger(__name__)

SESSION_SECONDS = 12 * 3600
_UNKNOWN_LINK = (
    "This sign-in link is not valid. It may be incomplete, or the console may have restarted."
)
_USED_LINK = "This sign-in link has already been used. Each link works once."
_EXPIRED_LINK = "This sign-in link has expired. Links expire after 10 min."
_LINK_SECONDS = 600
_MAX_LINKS = 20
_MAX_SESSIONS = 100
_MAX_FAILURES, _FAILURE_WINDOW = 20, 60  # per address, seconds
_RETRY_AFTER = 10  # seconds
_BAD_TOKEN = "This token is invalid or expired."  # noqa: S105  # a message
_MISSING_SCOPE = f"This token lacks the scope {APPROVE}."
_EXCESS_SCOPE = f"This token also has scopes for tools. Use a token whose only scope is {APPROVE}."
_NOT_VERIFIABLE = "The token can't be verified at the moment. Try again in 10 s."
_TOO_MANY = "Too many invalid tokens from this address. Wait a minute and try again."


@dataclass(frozen=True, slots=True)
class Session:
    """A session of an operator.

    Attributes:
        name: The operator's name.
        code: The decision code. Each form that decides something must contain it.
        expires_at: The end of the session in epoch seconds.
        grant: The grant of the operator's token, None after signing in with a link.
        key: The key under which the session is stored, empty if it is for a single request.
        started_at: The time of signing in, in epoch seconds.
        browser: The browser, such as "Firefox on Linux".
    """

    name: str
    code: str
    expires_at: float
    grant: Grant | None = None
    key: str = ""
    started_at: float = 0
    browser: str = ""

    @property
    def identifier(self) -> str:
        """The id of the session that other operators see. It lets nobody sign in."""
        return self.key[:16]

    def has_code(self, code: str) -> bool:
        """Return whether this is the session's decision code, with or without its hyphens."""
        given = code.replace("-", "").strip().lower()
        return secrets.compare_digest(given.encode(), self.code.replace("-", "").encode())

    @property
    def may_invite(self) -> bool:
        """Whether the operator can create links. Only those who signed in with a link can."""
        return self.grant is None

    @property
    def principal(self) -> str:
        """The principal of the tool calls that the operator makes in the console."""
        return f"console: {self.name}"

    def may_approve(self, request: ApprovalRequest) -> bool:
        """Return whether the operator may approve a request.

        Nobody may approve their own request where the policy demands an operator. A link does not
        identify a principal, so this applies to tokens only.
        """
        own = {normalized(name) for name in (self.name, self.principal)}
        is_own = normalized(request.binding.principal) in own
        return self.grant is None or request.users_too or not is_own


@dataclass(frozen=True, slots=True)
class _Link:
    name: str
    expires_at: float
    is_used: bool = False


class Sessions:
    """Stores links and sessions under the hashes of their secrets.

    `clock` returns the time in epoch seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._links: dict[str, _Link] = {}
        self._sessions: dict[str, Session] = {}

    def create_link(self, name: str) -> str:
        """Return the secret of a link for signing in as `name`, once."""
        secret = secrets.token_urlsafe(32)
        self._links[_hash(secret)] = _Link(name, self._clock() + _LINK_SECONDS)
        while len(self._links) > _MAX_LINKS:
            del self._links[next(iter(self._links))]
        return secret

    def open_by_link(self, link: str, browser: str = "") -> tuple[str, Session]:
        """Return the secret of a new session, and the session. The link can't be used again.

        Raises:
            HTTPException: The link is unknown, used or expired.
        """
        found = self.check_link(link)
        self._links[_hash(link)] = replace(found, is_used=True)
        return self._open(found.name, None, browser)

    def check_link(self, link: str) -> _Link:
        """Return a valid link. Raise HTTPException (401) if it is unknown, used or expired."""
        found = self._links.get(_hash(link))
        if found is None:
            raise HTTPException(401, _UNKNOWN_LINK)
        if found.is_used:
            raise HTTPException(401, _USED_LINK)
        if self._clock() >= found.expires_at:
            raise HTTPException(401, _EXPIRED_LINK)
        return found

    def open_by_grant(self, grant: Grant, browser: str = "") -> tuple[str, Session]:
        """Return the secret of a new session, and the session, which ends when the token does."""
        return self._open(grant.principal, grant, browser)

    def for_request(self, grant: Grant) -> Session:
        """Return a session for a single request."""
        return self._session(grant.principal, grant, "", "")

    async def find(self, secret: str) -> Session | None:
        """Return the session with this secret, None if there is no valid one."""
        session = self._sessions.get(_hash(secret))
        if session is None or await self.is_valid(session):
            return session
        self._sessions.pop(session.key, None)
        return None

    async def is_valid(self, session: Session) -> bool:
        """Return whether a session has not ended or expired and its token is still valid."""
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

    async def all(self) -> Sequence[Session]:
        """Return the valid sessions, oldest first."""
        return [session for session in self._sessions.values() if await self.is_valid(session)]

    def end_all(self, identifier: str = "") -> None:
        """End the session with this identifier; without one, all sessions."""
        kept = (each for each in self._sessions.values() if identifier)
        self._sessions = {each.key: each for each in kept if each.identifier != identifier}

    def _open(self, name: str, grant: Grant | None, browser: str) -> tuple[str, Session]:
        secret, now = secrets.token_urlsafe(32), self._clock()
        self._sessions = {key: s for key, s in self._sessions.items() if s.expires_at > now}
        while len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        key = _hash(secret)
        session = self._sessions[key] = self._session(name, grant, key, browser)
        return secret, session

    def _session(self, name: str, grant: Grant | None, key: str, browser: str) -> Session:
        now = self._clock()
        expires_at = now + SESSION_SECONDS
        expires_at = min(expires_at, grant.expiry) if grant else expires_at
        code = "-".join(secrets.token_hex(2) for _ in range(4))
        return Session(name, code, expires_at, grant, key, now, browser)


class TokenAuthenticator:
    """Authenticates operators by the bearer tokens of the HTTP service.

    An address that sends too many invalid tokens in a minute is blocked for the rest of it, even
    for valid tokens. `clock` returns the time in epoch seconds.
    """

    def __init__(
        self, verifier: TokenVerifier, limiter: RateLimiter, clock: Callable[[], float]
    ) -> None:
        self._verifier = verifier
        self._limiter = limiter
        self._clock = clock
        self._blocked_until: dict[str, float] = {}

    async def authenticate(self, token: str, address: str) -> Grant:
        """Return the grant of an operator's token.

        Raises:
            HTTPException: The token is not an operator's, can't be verified now, or comes from a
                blocked address.
        """
        wait = self._blocked_until.get(address, 0.0) - self._clock()
        if wait > 0:
            raise HTTPException(429, _TOO_MANY, {"Retry-After": str(ceil(wait))})
        try:
            grant = await self._verifier.verify_token(token)
        except AuthenticationError:
            raise HTTPException(503, _NOT_VERIFIABLE, {"Retry-After": str(_RETRY_AFTER)}) from None
        if grant is not None and grant.expiry <= time.time():
            grant = None  # in the HTTP server, the SDK checks this
        if grant is not None and is_operator(grant.scopes):
            return grant
        refusal = _refusal(grant)
        who = grant.principal if grant else "unknown"
        _log.warning("Console sign-in from %s (%s) refused: %s", address, who, refusal.detail)
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
    """Return the session of a request, which access control has stored."""
    return cast("Session", request.state.session)


def _refusal(grant: Grant | None) -> HTTPException:
    # The header names no scope, so that an agent's client does not request a token with it.
    if grant is None:
        return HTTPException(401, _BAD_TOKEN, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
    message = _EXCESS_SCOPE if APPROVE in grant.scopes else _MISSING_SCOPE
    return HTTPException(403, message, {"WWW-Authenticate": 'Bearer error="insufficient_scope"'})


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
