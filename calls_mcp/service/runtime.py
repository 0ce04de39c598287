"""What one server holds: its settings, and what invocations need, made at the first of them."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Self

import anyio

from calls_mcp.errors import CallsError, ConfigurationError
from calls_mcp.service.session_streams import Streams
from calls_mcp.settings import Access, Settings
from calls_mcp.tools.catalog import PROMPTS, load_operations
from calls_mcp.twilio.client_pool import ClientPool
from calls_mcp.twilio.transport import require_usable

if TYPE_CHECKING:
    from calls_mcp.guard.operator import Approvals
    from calls_mcp.guard.policy import Policy
    from calls_mcp.service.grants import Own
    from calls_mcp.service.invocation import Invoker
    from calls_mcp.service.wiring import Services
    from calls_mcp.storage.rate_limiter import RateLimiter


@dataclass(slots=True, eq=False)
class _Shared:
    """An invoker and its policy, for everybody or for a principal who has something of their `own`.

    `users` counts the invocations that use it just now.
    """

    own: "Own | None"
    access: Access
    policy: "Policy"
    invoker: "Invoker"
    users: int = 0


class Runtime:
    """Holds the settings, and the invokers made of them. An async context manager.

    `clock` gives the time in epoch seconds, `monotonic` seconds that never go back; `sandbox` marks
    every result as not real.
    """

    def __init__(
        self,
        settings: Settings,
        access: Access,
        *,
        sandbox: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.access = access
        self.sandbox = sandbox
        self.keys = settings.guard.keys(access)
        self.clock = clock
        self.monotonic = monotonic
        self.ending = anyio.Event()
        """Set once the server is about to end: subscriptions to calls end, too."""
        self.streams = Streams()
        """The streams of sessions over HTTP, on which they are notified of calls."""
        self._clients = ClientPool(monotonic)
        self._resources = AsyncExitStack()
        self._opening, self._making = anyio.Lock(), anyio.Lock()
        self._services: Services | None = None
        self._invokers: dict[str, _Shared] = {}
        self._replaced: list[_Shared] = []
        self._is_idle: anyio.Event | None = None

    async def __aenter__(self) -> Self:
        """Begin what must work from the start: telemetry, a policy file, a store that is set.

        Raises:
            ConfigurationError: The policy is wrong; the store, telemetry, or what the environment
                names for reaching the API can't be used.
        """
        async with AsyncExitStack() as undoing:
            undoing.push_async_callback(self.aclose)
            await self._begin()
            undoing.pop_all()
        return self

    async def _begin(self) -> None:
        settings = self.settings
        if settings.telemetry.export != "off" or settings.telemetry.metrics_address:
            self._resources.enter_context(_exporting(settings))
        require_usable(self.access)
        has_store = settings.storage.url and not settings.storage.is_memory
        if settings.guard.policy or has_store:
            await self._shared()

    async def __aexit__(self, *_: object) -> None:
        """Close what was opened."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close what was opened. Closing twice does nothing."""
        await self._clients.close_all_except(())
        await self._resources.aclose()

    @asynccontextmanager
    async def invoker(
        self, principal: str = "", own: "Own | None" = None
    ) -> "AsyncGenerator[Invoker]":
        """Yield the invoker of everybody, or that of a principal who has something of their `own`.

        Made at the first invocation, so that a client that only lists tools waits for less; and
        again when what the principal has of their own has changed.
        """
        shared = await self._shared(principal, own)
        shared.users += 1
        try:
            yield shared.invoker
        finally:
            shared.users -= 1
            with anyio.CancelScope(shield=True):
                await self._close_unused()
            if self._is_idle and not self._is_used:
                self._is_idle.set()

    def access_of(self, own: "Own | None") -> Access:
        """Return where the API is for a principal who has something of their `own`."""
        # An account of one's own is a real one; the sandbox's emulator has only its own.
        return own.access(self.access) if own and not self.sandbox else self.access

    async def policy(self, principal: str = "", own: "Own | None" = None) -> "Policy":
        """Return the policy for everybody, or for a principal who has something of their `own`.

        Raises:
            ConfigurationError: As when the runtime is entered.
        """
        return (await self._shared(principal, own)).policy

    async def rates(self) -> "RateLimiter":
        """Return what counts requests: for all replicas, if they share a Redis.

        Raises:
            ConfigurationError: As when the runtime is entered.
        """
        return (await self._open()).rates

    async def approvals(self) -> "Approvals | None":
        """Return where the operator decides; None if nobody else sees the requests in memory.

        Raises:
            ConfigurationError: As when the runtime is entered.
        """
        return (await self._open()).approvals

    async def warm_up(self) -> None:
        """Load what the first invocation needs, so that it need not wait for that.

        What is wrong with the setup is left for the invocation to report.
        """
        with suppress(CallsError):
            await anyio.to_thread.run_sync(import_module, "calls_mcp.service.wiring")
            await self._shared()

    async def finish(self, moment: float) -> None:
        """Wait until nothing is under way; what the API has not answered by `moment` is given up.

        That is recorded as unknown. `moment` is by anyio's clock.
        """
        self._clients.finish_by(moment)
        if self._is_used:
            self._is_idle = anyio.Event()
            await self._is_idle.wait()

    async def is_ready(self) -> bool:
        """Return whether changes can be stored and recorded, and the API is not failing.

        That is so again once a trial of the API is due, for only an invocation makes one.

        Raises:
            ConfigurationError: As when the runtime is entered.
        """
        shared = await self._shared()
        if not await (await self._open()).is_ready():
            return False
        return self._clients.client(shared.access).circuit != "open"

    async def _open(self) -> "Services":
        async with self._opening:
            if self._services is None:
                # This loads more than all that a start needs.
                from calls_mcp.service.wiring import open_services  # noqa: PLC0415

                opening = open_services(
                    self.settings, self.access, self.clock, sandbox=self.sandbox
                )
                self._services = await self._resources.enter_async_context(opening)
        return self._services

    async def _shared(self, principal: str = "", own: "Own | None" = None) -> _Shared:
        owner = principal if own else ""
        async with self._making:
            if owner != principal:  # they no longer have an account or policy of their own
                await self._close_unused(self._invokers.pop(principal, None))
            shared = before = self._invokers.get(owner)
            if shared is None or shared.own != own:
                shared = self._invokers[owner] = await self._make(own)
                await self._close_unused(before)
        return shared

    async def _make(self, own: "Own | None") -> _Shared:
        services, access = await self._open(), self.access_of(own)
        policy = (own and own.policy) or services.policy
        policy = policy.under(self.settings.guard.confirm)
        invoker = services.invoker(access, policy, self._clients.client(access))
        return _Shared(own, access, policy, invoker)

    @property
    def _is_used(self) -> bool:
        return any(shared.users for shared in self._all())

    def _all(self) -> list[_Shared]:
        return [*self._invokers.values(), *self._replaced]

    async def _close_unused(self, replaced: _Shared | None = None) -> None:
        """Close what was replaced, now or before, and is not used any more."""
        self._replaced += [replaced] if replaced else []
        if not self._replaced:
            return
        self._replaced = [shared for shared in self._replaced if shared.users]
        await self._clients.close_all_except({shared.access for shared in self._all()})


def _exporting(settings: Settings) -> AbstractContextManager[None]:
    try:
        from calls_mcp.observability.telemetry_export import exporting  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("opentelemetry", "prometheus_client"):
            raise
        raise ConfigurationError(
            "CALLS_MCP_TELEMETRY and CALLS_MCP_METRICS_ADDRESS need libraries that are not "
            "installed: pip install 'calls-mcp[otel]', or in a checkout: pip install '.[otel]'"
        ) from missing
    prompts = (prompt.stem for prompt in PROMPTS.glob("*.md"))
    telemetry = settings.telemetry
    return exporting(
        otlp=telemetry.export == "otlp",
        metrics_address=telemetry.metrics_address,
        names=[*load_operations(), *prompts],
    )
