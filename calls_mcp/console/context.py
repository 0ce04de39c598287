"""What the rooms share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import anyio

from calls_mcp.console.address import Address
from calls_mcp.console.browser_sessions import Sessions
from calls_mcp.console.sign_in_tokens import Tokens
from calls_mcp.guard.operator import Approvals
from calls_mcp.service.background import Background
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Settings
from calls_mcp.tools.outcome import Caller

_T = TypeVar("_T")
_MOST = 200  # answers that are kept
READER = Caller("console", client="calls-mcp console")
"""Who asks for what the pages show."""


class Fresh(Generic[_T]):
    """Answers that are good for `seconds`: whoever asks the same meanwhile, or at once, shares one.

    `clock` gives the time in epoch seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._known: dict[str, tuple[float, _T]] = {}
        self._asking: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    async def get(self, key: str, ask: Callable[[], Awaitable[_T]]) -> _T:
        """The answer for `key`, from `ask` if there is none that is fresh."""
        async with self._asking.setdefault(key, anyio.Lock()):
            until, answer = self._known.get(key, (0.0, None))
            if answer is not None and self._clock() < until:
                return answer
            answer = await ask()
            self._known[key] = self._clock() + self._seconds, answer
        while len(self._known) > _MOST:
            del self._known[next(iter(self._known))]
        return answer

    def forget(self, key: str) -> None:
        """Ask anew next time."""
        self._known.pop(key, None)


@dataclass(frozen=True, slots=True)
class House:
    """Everything that the rooms are made of.

    Without `approvals` nothing can be decided, without a `runtime` no calls are seen, without a
    `record` nothing is read of it; the reason is then in `lacking`, by the name of each. Without
    `tokens` nobody comes in by one, and without `links` nobody by a link.
    """

    settings: Settings
    address: Address
    sessions: Sessions
    tokens: Tokens | None
    links: bool
    approvals: Approvals | None
    runtime: Runtime | None
    record: Path | None
    lacking: dict[str, str]
    background: Background
    clock: Callable[[], float]
