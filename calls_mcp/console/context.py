"""The objects that all pages of a console share."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException

from calls_mcp.audit.search import AuditReader, Origin
from calls_mcp.console.browser_sessions import Sessions, TokenAuthenticator
from calls_mcp.console.listen_address import Address
from calls_mcp.guard.operator_decisions import Approvals
from calls_mcp.service.background_tasks import BackgroundTasks
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Settings
from calls_mcp.tools.catalog import Json, load_operations
from calls_mcp.tools.outcome import Answer, Caller, Outcome

_T = TypeVar("_T")
_MAX_CACHED = 200
_ALL_TOKENS = 10**9
READER = Caller("console", client="calls-mcp console")
"""The caller of all reads that the pages make."""


@dataclass(frozen=True, slots=True)
class ConsoleContext:
    """A running console.

    Attributes:
        tokens: Authenticates operators by token, None if they can't sign in with one.
        allows_links: Whether operators can sign in with a link.
        approvals: The approval requests, None if servers do not share their store.
        runtime: Runs tools, None without credentials. Pages then show no calls.
        audit_database: None if the audit log is not in a database.
        unavailable: Why any of the last three is None, by attribute name.
        background: Runs tasks that outlast a request.
        clock: Returns the time in epoch seconds.
    """

    settings: Settings
    address: Address
    sessions: Sessions
    tokens: TokenAuthenticator | None
    allows_links: bool
    approvals: Approvals | None
    runtime: Runtime | None
    audit_database: Path | None
    unavailable: dict[str, str]
    background: BackgroundTasks
    clock: Callable[[], float]

    @property
    def url(self) -> str:
        """The URL of the console for browsers."""
        return self.address.url

    def link(self, name: str) -> str:
        """Return a link for signing in as `name`. It works once and expires after ten minutes."""
        return f"{self.url}/sign-in?link={self.sessions.create_link(name)}"

    async def invoke(
        self,
        tool: str,
        arguments: Mapping[str, Json],
        caller: Caller = READER,
        answer: Answer | None = None,
    ) -> Outcome:
        """Run a tool with the same checks as for an agent.

        Raises:
            HTTPException: There is no runtime.
        """
        if self.runtime is None:
            raise HTTPException(503, self.unavailable["runtime"])
        operation = load_operations()[tool]
        async with self.runtime.invoker() as shared:
            invoker = replace(shared, result_tokens=_ALL_TOKENS)  # no model reads the result
            outcome = await invoker.invoke(operation, arguments, caller, answer)
        await self.runtime.run_when_approved(outcome, operation, arguments, caller)
        return outcome

    async def read_origins(self, sids: Iterable[str]) -> Mapping[str, Origin]:
        """Return who requested and who approved these calls, by SID, from the audit log.

        Raises:
            ConfigurationError: The audit log can't be read.
        """
        if self.audit_database is None:
            return {}
        return await anyio.to_thread.run_sync(AuditReader(self.audit_database).origins, sids)


class TimedCache(Generic[_T]):
    """Caches values for `seconds`. Concurrent requests for a key share one read.

    `clock` returns the time in epoch seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._values: dict[str, tuple[float, _T]] = {}
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    async def get(self, key: str, read: Callable[[], Awaitable[_T]]) -> _T:
        """Return the cached value of `key`, or read it."""
        async with self._locks.setdefault(key, anyio.Lock()):
            expires_at, value = self._values.get(key, (0.0, None))
            if value is not None and self._clock() < expires_at:
                return value
            value = await read()
            self._values[key] = self._clock() + self._seconds, value
        while len(self._values) > _MAX_CACHED:
            del self._values[next(iter(self._values))]
        return value

    def discard(self, key: str) -> None:
        """Remove a key from the cache."""
        self._values.pop(key, None)
