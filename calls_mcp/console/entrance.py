"""Who may come in: links that work once, and the sessions that they open."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

LINK_LASTS = 600  # seconds
SESSION_LASTS = 12 * 3600  # seconds
_MOST_LINKS = 20
_MOST_SESSIONS = 100


@dataclass(frozen=True, slots=True)
class Session:
    """An operator who has come in; `csrf` is what each of their forms must bear.

    `until` is in epoch seconds.
    """

    name: str
    csrf: str
    until: float


class Entrance:
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
        identifier, now = secrets.token_urlsafe(32), self._clock()
        self._sessions = {key: s for key, s in self._sessions.items() if s.until > now}
        while len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        csrf = secrets.token_urlsafe(32)
        self._sessions[_hash(identifier)] = Session(name, csrf, now + SESSION_LASTS)
        return identifier

    def session(self, secret: str) -> Session | None:
        """The session of this secret, if it has not lapsed."""
        session = self._sessions.get(_hash(secret))
        return session if session and self._clock() < session.until else None

    def dismiss(self, secret: str) -> None:
        """End a session."""
        self._sessions.pop(_hash(secret), None)


def session_of(request: Request) -> Session:
    """Whose request it is; only for what the gate lets nobody else see."""
    return cast("Session", request.state.session)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
