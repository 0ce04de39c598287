"""Everything one server needs to run invocations, made once and closed together."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Self

import anyio

from calls_mcp.errors import AuditUnavailable, CallsError, ConfigurationError, StoreUnavailable
from calls_mcp.service.session_streams import Streams
from calls_mcp.settings import Access, Settings
from calls_mcp.tools.catalog import PROMPTS, load_operations
from calls_mcp.twilio.client_pool import ClientPool
from calls_mcp.twilio.transport import require_usable

if TYPE_CHECKING:
    from calls_mcp.audit import AuditLog
    from calls_mcp.guard.approval_requests import ApprovalRequests
    from calls_mcp.guard.operator import Approvals
    from calls_mcp.guard.policy import Policy
    from calls_mcp.service.grants import Own
    from calls_mcp.service.invocation import Invoker
    from calls_mcp.storage import Storage
    from calls_mcp.storage.rate_limiter import RateLimiter

_GRACE = 5  # seconds
_LEAST_WAIT = 2  # seconds


@dataclass(slots=True, eq=False)
class _Made:
    """What is made for everybody, or for a principal who has something of their `own`.

    `users` counts the invocations that it is used for just now.
    """

    own: "Own | None"
    access: Access
    invoker: "Invoker"
    policy: "Policy"
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
        self._accounts = ClientPool(monotonic)
        self._resources = AsyncExitStack()
        self._making = anyio.Lock()
        self._records: tuple[Storage, AuditLog] | None = None
        self._policy: Policy | None = None
        self._rates: RateLimiter | None = None
        self._made: dict[str, _Made] = {}
        self._replaced: list[_Made] = []
        self._is_idle: anyio.Event | None = None
        self.ending = anyio.Event()
        """Set once the server is about to end: whoever waits for news of calls is let go."""
        self.streams = Streams()
        """The streams of sessions over HTTP, on which they are told of calls."""

    async def __aenter__(self) -> Self:
        """Begin what must work from the start: telemetry, a policy of one's own, a lasting store.

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
            await self._everything()

    async def __aexit__(self, *_: object) -> None:
        """Close what the invoker opened."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close what the invoker opened. Closing twice does nothing."""
        await self._accounts.close_all_except(())
        await self._resources.aclose()

    @asynccontextmanager
    async def invoker(
        self, principal: str = "", own: "Own | None" = None
    ) -> "AsyncGenerator[Invoker]":
        """The invoker of everybody, or that of a principal who has something of their `own`.

        Made at the first invocation, so that a client that only lists tools waits for less; and
        anew when what the principal has of their own has changed.
        """
        made = await self._everything(principal, own)
        made.users += 1
        try:
            yield made.invoker
        finally:
            made.users -= 1
            with anyio.CancelScope(shield=True):
                await self._let_go()
            if self._is_idle and not self._is_used:
                self._is_idle.set()

    def access_of(self, own: "Own | None") -> Access:
        """Where the API is for a principal who has something of their `own`, and who they are."""
        # An account of one's own is a real one; the sandbox's emulator has only its own.
        return own.access(self.access) if own and not self.sandbox else self.access

    async def policy(self, principal: str = "", own: "Own | None" = None) -> "Policy":
        """The rules that count for everybody, or for a principal who has something of their `own`.

        Raises:
            ConfigurationError: As when the runtime is entered.
        """
        return (await self._everything(principal, own)).policy

    async def rates(self) -> "RateLimiter":
        """What counts how often something is asked for: for all replicas, if they share a Redis.

        Raises:
            ConfigurationError: As when the runtime is entered.
        """
        from calls_mcp.storage.rate_limiter import RateLimiter  # noqa: PLC0415

        storage, _ = await self._opened()
        shared = storage if storage.kind == "redis" else None
        self._rates = self._rates or RateLimiter(shared, self.clock)
        return self._rates

    async def approvals(self) -> "Approvals | None":
        """Return where the operator decides; None if nobody else sees the requests in memory.

        Raises:
            ConfigurationError: As when the runtime is entered.
        """
        from calls_mcp.guard.operator import Approvals  # noqa: PLC0415

        storage, audit = await self._opened()
        return Approvals(storage, audit, self.clock) if storage.is_shared else None

    async def warm_up(self) -> None:
        """Load what the first invocation needs, so that it need not wait for that.

        What is wrong with the setup is left for the invocation to report.
        """
        with suppress(CallsError):
            await anyio.to_thread.run_sync(_load)
            await self._everything()

    async def finish(self, moment: float) -> None:
        """Wait until nothing is under way; what the API has not answered by `moment` is given up.

        That is recorded as unknown. `moment` is by anyio's clock.
        """
        self._accounts.finish_by(moment)
        if self._is_used:
            self._is_idle = anyio.Event()
            await self._is_idle.wait()

    async def is_ready(self) -> bool:
        """Whether changes can be kept and recorded, and the API is not left alone for its failures.

        That is so again once a trial of the API is due, for only an invocation makes one.

        Raises:
            ConfigurationError: As when the runtime is entered.
        """
        made = await self._everything()
        storage, audit = await self._opened()
        try:
            await storage.ping()
            await audit.require_ready()
        except (StoreUnavailable, AuditUnavailable):
            return False
        return self._accounts.client(made.access).circuit != "open"

    async def _everything(self, principal: str = "", own: "Own | None" = None) -> "_Made":
        whose = principal if own else ""
        async with self._making:
            if whose != principal:  # what they had of their own, they have no more
                await self._let_go(self._made.pop(principal, None))
            made = before = self._made.get(whose)
            if made is None or made.own != own:
                made = self._made[whose] = await self._make(own)
                await self._let_go(before)
        return made

    @property
    def _is_used(self) -> bool:
        return any(made.users for made in self._all())

    def _all(self) -> "list[_Made]":
        return [*self._made.values(), *self._replaced]

    async def _let_go(self, replaced: _Made | None = None) -> None:
        """Close what was replaced, now or before, and nobody uses any more."""
        self._replaced += [replaced] if replaced else []
        if not self._replaced:
            return
        self._replaced = [made for made in self._replaced if made.users]
        await self._accounts.close_all_except({made.access for made in self._all()})

    async def _opened(self) -> "tuple[Storage, AuditLog]":
        """The state store and the audit log, which all invokers share."""
        from calls_mcp.audit import audit_path, open_audit  # noqa: PLC0415
        from calls_mcp.storage import StorageOptions, open_storage  # noqa: PLC0415

        if self._records is not None:
            return self._records
        settings, enter = self.settings, self._resources.enter_async_context
        wait = max(_LEAST_WAIT, self.access.deadline / 4)  # for what other processes are using
        # Whoever waits for the outcome of another's change waits a little longer than that takes.
        options = StorageOptions(
            outcome_timeout=self.access.deadline + _GRACE, timeout=min(5, wait), clock=self.clock
        )
        storage = await enter(
            open_storage(settings.storage.location, options, sandbox=self.sandbox)
        )
        audit = await enter(
            open_audit(
                audit_path(settings, sandbox=self.sandbox),
                settings.audit.numbers,
                self.clock,
                min(10, wait),
            )
        )
        self._records = (storage, audit)
        return self._records

    def _requests(self, storage: "Storage") -> "ApprovalRequests | None":
        from calls_mcp.guard.approval_requests import ApprovalRequests  # noqa: PLC0415

        if not storage.is_shared:
            return None
        ttl, wait = self.settings.guard.operator_ttl, self.settings.guard.operator_wait
        return ApprovalRequests(storage, ttl, wait, self.clock, self.settings.console.url)

    async def _make(self, own: "Own | None") -> "_Made":
        from calls_mcp.guard.call_limits import Quotas  # noqa: PLC0415
        from calls_mcp.guard.confirmations import Confirmations  # noqa: PLC0415
        from calls_mcp.guard.decisions import Decisions  # noqa: PLC0415
        from calls_mcp.guard.execution import Changes  # noqa: PLC0415
        from calls_mcp.guard.policy import load_policy  # noqa: PLC0415
        from calls_mcp.guard.rate_limit import Throttle  # noqa: PLC0415
        from calls_mcp.guard.send_once import Delivery  # noqa: PLC0415
        from calls_mcp.guard.signing import Seal  # noqa: PLC0415
        from calls_mcp.service.cursors import Cursors  # noqa: PLC0415
        from calls_mcp.service.invocation import Invoker, Terms  # noqa: PLC0415

        settings = self.settings
        storage, audit = await self._opened()
        access = self.access_of(own)
        twilio = self._accounts.client(access)
        seal, account_sid = Seal(self.keys), access.account_sid
        confirmations = Confirmations(storage, seal, settings.guard.confirm_ttl, self.clock)
        self._policy = self._policy or load_policy(settings.guard.policy)
        policy = (own and own.policy) or self._policy
        policy = policy.under(settings.guard.confirm)
        delivery = Delivery(twilio, storage, access.deadline, self.clock)
        quotas = Quotas(
            storage, policy.caps, delivery.fetch, self.clock, account_sid, access.deadline
        )
        requests = self._requests(storage)
        decisions = Decisions(delivery, confirmations, quotas, policy, self.clock, requests)
        changes = Changes(decisions, delivery, confirmations, quotas, audit)
        cursors = Cursors(seal, account_sid, settings.results.bytes)
        terms = Terms(
            account_sid,
            access.deadline,
            settings.results.bytes,
            self.sandbox,
        )
        throttle = Throttle(policy.caps, await self.rates())
        invoker = Invoker(twilio, changes, cursors, throttle, policy, terms)
        return _Made(own, access, invoker, policy)


def _load() -> None:
    for name in ("calls_mcp.guard.execution", "calls_mcp.twilio.client"):
        import_module(name)


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
