"""Who may come in: by links that work once or by tokens, and the sessions that these open."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from calls_mcp.service.grants import Grant, is_operators
from calls_mcp.storage import ApprovalRequest

LINK_LASTS = 600  # seconds
SESSION_LASTS = 12 * 3600  # seconds
_MOST_LINKS = 20
_MOST_SESSIONS = 100


@dataclass(frozen=True, slots=True)
class Session:
    """An operator who has come in; `csrf` is what each of their forms must bear.

    `until` is in epoch seconds. `grant` is what their token grants, if they came by one, and `key`
    what the session is kept by, if it is for more than one request.
    """

    name: str
    csrf: str
    until: float
    grant: Grant | None = None
    key: str = ""

    @property
    def may_invite(self) -> bool:
        """Whether they can let others in: a token lets in nobody but whom it stands for."""
        return self.grant is None

    @property
    def principal(self) -> str:
        """As whom they do what a tool does."""
        return f"console: {self.name}"

    def may_approve(self, request: ApprovalRequest) -> bool:
        """Whether they may approve it: where only an operator may, nobody their own request.

        That is as far as they are authenticated. Who came by a link is the operator.
        """
        is_own = request.binding.principal in (self.name, self.principal)
        return self.grant is None or request.users_too or not is_own


class Sessions:
    """Knows links and sessions, by their hashes; `clock` gives the time in epoch seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._links: dict[str, tuple[str, float]] = {}
        self._sessions: dict[str, Session] = {}

    def invite(self, name: str) -> str:
        """The secret of a link that lets somebody in as `name`, once, for ten minutes."""
        secret = secrets.token_urlsafe(32)
        self._links[_hash(secret)] = name, self._clock() + LINK_LASTS
        while len(self._links) > _MOST_LINKS:
            del self._links[next(iter(self._links))]
        return secret

    def admit(self, link: str) -> str | None:
        """The secret of a new session, if the link is good; it is not any more then."""
        name, until = self._links.pop(_hash(link), ("", 0.0))
        if not name or self._clock() >= until:
            return None
        return self._keep(name, None)

    def welcome(self, grant: Grant) -> str:
        """The secret of a new session, by what a token grants; it ends with the token."""
        return self._keep(grant.principal, grant)

    def visit(self, grant: Grant) -> Session:
        """A session for what is asked with one token, and as long as it is answered."""
        return self._session(grant.principal, grant, "")

    async def session(self, secret: str) -> Session | None:
        """The session of this secret, if it lasts."""
        session = self._sessions.get(_hash(secret))
        if session is None or await self.lasts(session):
            return session
        self._sessions.pop(session.key, None)
        return None

    async def lasts(self, session: Session) -> bool:
        """Whether a session has not lapsed, was not ended, and its token is still good."""
        is_kept = not session.key or self._sessions.get(session.key) is session
        if not is_kept or self._clock() >= session.until:
            return False
        now = session.grant and await session.grant.renewed()
        return session.grant is None or (now is not None and is_operators(now.scopes))

    def dismiss(self, secret: str) -> None:
        """End a session."""
        self._sessions.pop(_hash(secret), None)

    def _keep(self, name: str, grant: Grant | None) -> str:
        secret, now = secrets.token_urlsafe(32), self._clock()
        self._sessions = {key: s for key, s in self._sessions.items() if s.until > now}
        while len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        key = _hash(secret)
        self._sessions[key] = self._session(name, grant, key)
        return secret

    def _session(self, name: str, grant: Grant | None, key: str) -> Session:
        until = self._clock() + SESSION_LASTS
        until = min(until, grant.ends_at) if grant else until
        return Session(name, secrets.token_urlsafe(32), until, grant, key)


def session_of(request: Request) -> Session:
    """Whose request it is; only for what the gate lets nobody else see."""
    return cast("Session", request.state.session)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
