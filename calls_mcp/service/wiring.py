"""Create the objects that invocations need. `Runtime` imports this lazily."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from calls_mcp.guard.policy.rules import Policy, load_policy
from calls_mcp.guard.signing import Signer
from calls_mcp.service.invocation import Invoker
from calls_mcp.service.listing import Cursors
from calls_mcp.settings import Access, Settings
from calls_mcp.storage.rate_limits import RateLimiter
from calls_mcp.twilio.client import ClientPool

if TYPE_CHECKING:
    from calls_mcp.guard.execution import Executor
    from calls_mcp.service.change_wiring import ChangeServices


@dataclass(frozen=True, kw_only=True)
class SharedServices:
    """What all invokers share. `changes` returns what only changes need, and loads it if needed."""

    settings: Settings
    sandbox: bool
    policy: Policy
    rates: RateLimiter
    signer: Signer
    clients: ClientPool
    changes: "Callable[[], Awaitable[ChangeServices]]"

    def invoker(self, access: Access, policy: Policy) -> Invoker:
        """Return a new invoker for an account with a policy."""

        async def executor() -> "Executor":
            return (await self.changes()).executor(access, policy)

        return Invoker(
            account_sid=access.account_sid,
            policy=policy,
            twilio=self.clients.client(access),
            rates=self.rates,
            executor=executor,
            cursors=Cursors(self.signer, access.account_sid),
            deadline=access.deadline,
            result_tokens=self.settings.results.tokens,
            sandbox=self.sandbox,
        )


@asynccontextmanager
async def open_services(
    settings: Settings,
    access: Access,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
    *,
    sandbox: bool,
) -> AsyncGenerator[SharedServices]:
    """Load the policy, and open the state store if the settings name one.

    Raises:
        ConfigurationError: The store can't be used, or the policy is invalid.
    """
    async with AsyncExitStack() as resources, aclosing(ClientPool(monotonic)) as clients:
        signer = Signer(settings.guard.keys(access))

        async def load() -> "ChangeServices":
            from calls_mcp.service.change_wiring import open_changes  # noqa: PLC0415  # no read needs it

            opening = open_changes(settings, access, clients, signer, clock, sandbox=sandbox)
            return await resources.enter_async_context(opening)

        changes = _Once(load)
        storage = (await changes()).storage if settings.storage.is_external else None
        yield SharedServices(
            settings=settings,
            sandbox=sandbox,
            policy=load_policy(settings.guard.policy),
            rates=RateLimiter(storage.hit if storage and storage.kind == "redis" else None, clock),
            signer=signer,
            clients=clients,
            changes=changes,
        )


class _Once:
    """Loads what only changes need at the first use."""

    def __init__(self, load: "Callable[[], Awaitable[ChangeServices]]") -> None:
        self._load = load
        self._lock = anyio.Lock()
        self._loaded: ChangeServices | None = None

    async def __call__(self) -> "ChangeServices":
        async with self._lock:
            if self._loaded is None:
                self._loaded = await self._load()
        return self._loaded
