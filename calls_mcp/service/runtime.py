"""The shared state of one server, on the real Calls API or in the sandbox.

What invocations need is loaded on first use. The sandbox is an emulator in this process.
"""

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from math import inf
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import anyio

from calls_mcp.errors import CallsError, ConfigurationError
from calls_mcp.observability.redaction import one_line
from calls_mcp.service.background_tasks import BackgroundTasks, open_background_tasks
from calls_mcp.service.watching import NotificationStreams, Watches
from calls_mcp.settings import Access, Settings
from calls_mcp.tools.catalog import PROMPTS, Json, Operation, load_operations
from calls_mcp.tools.outcome import Caller, Outcome
from calls_mcp.twilio.proxies_and_certificates import named_certificates, named_proxy

if TYPE_CHECKING:
    from calls_mcp.emulator import Emulator
    from calls_mcp.guard.policy.rules import Policy
    from calls_mcp.service.approved_changes import ApprovedChanges
    from calls_mcp.service.change_wiring import ChangeServices
    from calls_mcp.service.grants import Grant, Overrides
    from calls_mcp.service.invocation import Invoker
    from calls_mcp.service.wiring import SharedServices

_POLL = 1.0  # second
_PAST_CALLS = 40
_LONGEST_TRANSCRIPT = 50  # lines


@dataclass(frozen=True, slots=True, eq=False)
class _CachedInvoker:
    """An invoker, shared by all principals or for one that has overrides."""

    overrides: "Overrides | None"
    access: Access
    invoker: "Invoker"


class Runtime:
    """Holds the settings and creates the invokers. An async context manager.

    `clock` returns epoch seconds, and `monotonic` returns monotonic seconds. `sandbox` marks every
    result as not real. `poll` is the time in seconds between two checks for the operator's
    decisions.
    """

    def __init__(
        self,
        settings: Settings,
        access: Access,
        *,
        sandbox: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        poll: float = _POLL,
    ) -> None:
        self.settings = settings
        self.access = access
        self.sandbox = sandbox
        self.keys = settings.guard.keys(access)
        self.clock = clock
        self.monotonic = monotonic
        self.ending = anyio.Event()
        """Set when the server is about to stop; subscriptions to calls end then."""
        self.streams = NotificationStreams()
        """The open streams for notifications over HTTP."""
        self._poll = poll
        self._background = open_background_tasks()
        self._tasks: BackgroundTasks | None = None
        self._approved: ApprovedChanges | None = None
        self._deadline = inf
        self._resources = AsyncExitStack()
        self._opening, self._making = anyio.Lock(), anyio.Lock()
        self._services: SharedServices | None = None
        self._watches: WeakKeyDictionary[BackgroundTasks, Watches] = WeakKeyDictionary()
        self._invokers: dict[str, _CachedInvoker] = {}
        self._running = 0  # invocations
        self._is_idle: anyio.Event | None = None

    async def __aenter__(self) -> Self:
        """Check the settings that must work from the start: telemetry, proxy, policy and store.

        Raises:
            ConfigurationError: The policy is invalid, or the store, the telemetry, or the proxy
                or certificates that the environment names can't be used.
        """
        self._tasks = await self._background.__aenter__()
        async with AsyncExitStack() as undoing:
            undoing.push_async_exit(self.__aexit__)
            await self._begin()
            undoing.pop_all()
        return self

    async def _begin(self) -> None:
        settings = self.settings
        if settings.telemetry.export != "off" or settings.telemetry.metrics_address:
            self._resources.enter_context(_exporting(settings))
        self._check_environment()
        if settings.guard.policy or settings.storage.is_external:
            await self._entry()

    def _check_environment(self) -> None:
        """Check the certificates and the proxy that the environment names, if any.

        Raises:
            ConfigurationError: They can't be used.
        """
        if named_proxy(self.access.base_url):
            from calls_mcp.twilio.transport import connect_to  # noqa: PLC0415  # loads httpx

            connect_to(self.access.base_url)
        elif urlsplit(self.access.base_url).scheme == "https":
            named_certificates()

    async def __aexit__(self, *_: object) -> None:
        """Close all resources."""
        await self.aclose()
        await self._background.__aexit__(None, None, None)

    async def aclose(self) -> None:
        """Close all resources. A second call does nothing."""
        if self._approved is not None:
            await self._approved.aclose()
        await self._resources.aclose()

    @asynccontextmanager
    async def invoker(
        self, principal: str = "", overrides: "Overrides | None" = None
    ) -> "AsyncGenerator[Invoker]":
        """Yield the shared invoker, or the one of a principal that has overrides.

        An invoker is created on first use, which keeps the start fast, and again whenever the
        principal's overrides change.
        """
        self._running += 1
        try:
            yield (await self._entry(principal, overrides)).invoker
        finally:
            self._running -= 1
            if not self._running:
                await self._close_unused()
                if self._is_idle and not self._running:
                    self._is_idle.set()
                    self._is_idle = None

    async def run_when_approved(
        self,
        outcome: Outcome,
        operation: Operation,
        arguments: Mapping[str, Json],
        caller: Caller,
        grant: "Grant | None" = None,
    ) -> None:
        """If the outcome is a pending approval request, run the change once it is approved.

        `grant` is that of the principal's token, if any. It is checked again before the run.
        """
        identifier = outcome.confirmation and outcome.confirmation.approval
        if identifier and self._services and self._tasks:
            changes = await self._services.changes()
            if self._approved is None:
                self._approved = changes.approved_changes(
                    self.invoker, self._tasks, self.ending, self._poll
                )
            await self._approved.add(identifier, operation, arguments, caller, grant)

    def access_for(self, overrides: "Overrides | None") -> Access:
        """Return the access to the API for a principal with these overrides."""
        # The sandbox's emulator knows no account of a principal.
        return overrides.access(self.access) if overrides and not self.sandbox else self.access

    async def policy(self, principal: str = "", overrides: "Overrides | None" = None) -> "Policy":
        """Return the shared policy, or the one of a principal that has overrides.

        Raises:
            ConfigurationError: As when the runtime is entered.
        """
        return (await self._entry(principal, overrides)).invoker.policy

    async def services(self) -> "SharedServices":
        """Return what all invokers share.

        Raises:
            ConfigurationError: As when the runtime is entered.
        """
        async with self._opening:
            if self._services is None:
                # Importing this takes longer than the rest of the start.
                from calls_mcp.service.wiring import open_services  # noqa: PLC0415

                opening = open_services(
                    self.settings, self.access, self.clock, self.monotonic, sandbox=self.sandbox
                )
                self._services = await self._resources.enter_async_context(opening)
                self._services.clients.finish_by(self._deadline)
        return self._services

    async def changes(self) -> "ChangeServices":
        """Return what all changes share, with the state store and the audit log.

        Raises:
            ConfigurationError: As when the runtime is entered.
        """
        return await (await self.services()).changes()

    def watches(self, background: BackgroundTasks) -> Watches:
        """Return the watches of live calls, which end when the server is about to stop."""
        if background not in self._watches:
            watch = self.settings.watch
            watches = self._watches[background] = Watches(background, watch.interval, watch.limit)
            background.start(partial(self._close_at_the_end, watches))
        return self._watches[background]

    async def _close_at_the_end(self, watches: Watches) -> None:
        await self.ending.wait()
        watches.close()

    async def warm_up(self) -> None:
        """Load what the first invocations need, in advance.

        Errors are suppressed here, because the invocation reports them.
        """
        with suppress(CallsError):
            await anyio.to_thread.run_sync(import_module, "calls_mcp.service.wiring")
            await self._entry()
            await self.idle()  # a first call is answered before this loads what changes need
            await anyio.to_thread.run_sync(import_module, "calls_mcp.service.change_wiring")

    async def finish(self, moment: float) -> None:
        """Wait for running invocations; at `moment` (anyio's clock), give up requests to the API.

        Changes that are given up are recorded as unknown. No more approved changes are started.
        """
        self.ending.set()
        self._deadline = moment
        if self._services:
            self._services.clients.finish_by(moment)
        await self.idle()

    async def idle(self) -> None:
        """Wait until no invocation is running."""
        if self._running:
            self._is_idle = self._is_idle or anyio.Event()
            await self._is_idle.wait()

    async def is_ready(self) -> bool:
        """Return whether changes can be stored and recorded, and the circuit breaker lets one pass.

        A breaker that is due for a trial counts as ready, because only an invocation is a trial.

        Raises:
            ConfigurationError: As when the runtime is entered.
        """
        entry, services = await self._entry(), await self.services()
        if not await (await services.changes()).is_ready():
            return False
        return services.clients.client(entry.access).circuit != "open"

    async def _entry(
        self, principal: str = "", overrides: "Overrides | None" = None
    ) -> _CachedInvoker:
        owner = principal if overrides else ""
        async with self._making:
            if owner != principal:  # the principal has no overrides any more
                self._invokers.pop(principal, None)
            entry = self._invokers.get(owner)
            if entry is None or entry.overrides != overrides:
                entry = self._invokers[owner] = await self._make(overrides)
        return entry

    async def _make(self, overrides: "Overrides | None") -> _CachedInvoker:
        services, access = await self.services(), self.access_for(overrides)
        policy = (overrides and overrides.policy) or services.policy
        policy = policy.under(self.settings.guard.confirm)
        return _CachedInvoker(overrides, access, services.invoker(access, policy))

    async def _close_unused(self) -> None:
        """Close the clients of replaced invokers, once no invocation is running."""
        if self._services:
            used = {entry.access for entry in self._invokers.values()}
            with anyio.CancelScope(shield=True):
                await self._services.clients.close_all_except(used)


def _exporting(settings: Settings) -> AbstractContextManager[None]:
    try:
        from calls_mcp.observability.telemetry_export import exporting  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("opentelemetry", "prometheus_client"):
            raise
        raise ConfigurationError(
            "CALLS_MCP_TELEMETRY and CALLS_MCP_METRICS_ADDRESS need libraries that are not "
            "installed. In the checkout of calls-mcp, run: pip install '.[otel]'"
        ) from missing
    prompts = (prompt.stem for prompt in PROMPTS.glob("*.md"))
    telemetry = settings.telemetry
    return exporting(
        otlp=telemetry.export == "otlp",
        metrics_address=telemetry.metrics_address,
        names=[*load_operations(), *prompts],
    )


@asynccontextmanager
async def open_runtime(settings: Settings, *, sandbox: bool) -> AsyncGenerator[Runtime]:
    """Open a runtime on the configured API or, in the sandbox, on an emulator.

    Raises:
        ConfigurationError: Credentials are missing, or the runtime can't be opened.
    """
    async with (
        open_access(settings, sandbox=sandbox) as access,
        Runtime(settings, access, sandbox=sandbox) as runtime,
    ):
        yield runtime


@asynccontextmanager
async def open_access(settings: Settings, *, sandbox: bool) -> AsyncGenerator[Access]:
    """Yield access to the configured API or, in the sandbox, to an emulator with some past calls.

    Raises:
        MissingCredentials: The settings have none.
    """
    if not sandbox:
        yield settings.twilio.access()
        return
    from calls_mcp.emulator import Emulator, past_calls  # noqa: PLC0415

    async with Emulator(port=None) as emulator:
        emulator.calls.add(*past_calls(1, _PAST_CALLS, emulator.clock()))
        yield access_to(emulator, settings)


def access_to(emulator: "Emulator", settings: Settings) -> Access:
    """Return access to an emulator in this process."""
    return Access(
        base_url="http://emulator",
        account_sid=emulator.account.sid,
        username=emulator.account.sid,
        password=emulator.account.auth_token,
        timeout=settings.twilio.timeout,
        deadline=settings.twilio.deadline,
        app=emulator.app,
        transcript=partial(_transcript, emulator),
    )


def _transcript(emulator: "Emulator", sid: str) -> Sequence[str]:
    """Return the end of a call's transcript."""
    return [one_line(line) for line in emulator.transcript_lines(sid)[-_LONGEST_TRANSCRIPT:]]
