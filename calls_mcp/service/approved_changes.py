"""Changes that wait for the operator. The process that asked runs them after the approval."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from calls_mcp.errors import (
    CallsError,
    InvalidArguments,
    InvalidConfirmation,
    PolicyDenied,
    StoreUnavailable,
)
from calls_mcp.guard.approval_requests import Heartbeat
from calls_mcp.observability.current_request import request_context
from calls_mcp.service.approvals_webhook import ApprovalsWebhook
from calls_mcp.service.grants import renewed_for
from calls_mcp.service.invocation import Invoker
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.records import ApprovalRequest
from calls_mcp.tools.catalog import Json, Operation
from calls_mcp.tools.outcome import Answer, Caller
from calls_mcp.tools.validation import validate

if TYPE_CHECKING:
    from calls_mcp.service.background_tasks import BackgroundTasks
    from calls_mcp.service.grants import Grant, Overrides

_FINAL = (PolicyDenied.kind, InvalidConfirmation.kind, InvalidArguments.kind)
_PATIENCE = 60.0  # seconds after the approval, in which an unreachable API is tried again
_RETRY = 5  # times the interval, between two attempts to run a change
_LAST_WRITES = 2.0  # seconds
_CHECK_EVERY = 20.0  # seconds between two checks whether requests have become obsolete
_AT_ONCE = 10  # requests that one check reads


@dataclass(frozen=True, slots=True)
class _Change:
    """A change as the client requested it, and the grant of the client's token, if any."""

    operation: Operation
    arguments: Mapping[str, Json]
    caller: Caller
    grant: "Grant | None"


OpenInvoker = Callable[[str, "Overrides | None"], AbstractAsyncContextManager[Invoker]]
"""Opens the invoker of a principal with overrides."""


@dataclass(kw_only=True, slots=True, eq=False)
class ApprovedChanges:
    """Runs the changes of a process as soon as the operator approves them.

    While any of its requests are pending, one task checks the store every `interval` seconds and
    writes heartbeats. `server` is the name of the process in approval requests. It starts nothing
    once `ending` is set, because the process is about to stop. The `webhook` is notified of each
    request. `clock` returns epoch seconds.
    """

    storage: Storage
    server: str
    invoker: OpenInvoker
    background: "BackgroundTasks"
    ending: anyio.Event
    clock: Callable[[], float]
    interval: float
    webhook: ApprovalsWebhook | None
    _heartbeat: Heartbeat = field(init=False)
    _pending: dict[str, _Change] = field(default_factory=dict[str, _Change], init=False)
    _running: set[str] = field(default_factory=set[str], init=False)
    _seen: str = field(default="", init=False)
    _check_at: float = field(default=0, init=False)
    _is_checking: bool = field(default=False, init=False)
    _tasks: TaskGroup | None = field(default=None, init=False)
    _ended: anyio.Event = field(default_factory=anyio.Event, init=False)

    def __post_init__(self) -> None:
        self._heartbeat = Heartbeat(self.storage, self.server)

    async def add(
        self,
        identifier: str,
        operation: Operation,
        arguments: Mapping[str, Json],
        caller: Caller,
        grant: "Grant | None",
    ) -> None:
        """Run a change after the approval of its request, if this process made the request.

        `grant` is that of the principal's token, if any. It is checked again before the run.
        """
        is_known = identifier in self._pending or identifier in self._running
        if is_known or self.ending.is_set():
            return
        self._pending[identifier] = _Change(operation, arguments, caller, grant)
        self._seen = ""
        if self._tasks is None:
            self._tasks, self._ended = anyio.create_task_group(), anyio.Event()
            self.background.start(partial(self._watch, self._tasks, self._ended))
            with suppress(StoreUnavailable):
                self._check_at = await self.storage.now() + _CHECK_EVERY
            await self._beat()  # before the client hears of the request
        with suppress(StoreUnavailable):
            request = await self.storage.find_request(identifier)
            if not self._is_own(request):
                self._pending.pop(identifier, None)
            elif request and self.webhook is not None:
                self.webhook.notify(request)

    async def aclose(self) -> None:
        """Stop. Changes that are being sent are finished first."""
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await self._ended.wait()
        if self.webhook is not None:
            await self.webhook.aclose()

    async def _watch(self, tasks: TaskGroup, ended: anyio.Event) -> None:
        try:
            async with tasks:
                while (self._pending or self._running) and not self.ending.is_set():
                    await self._pause(self.interval)
                    await self._beat()
                    try:
                        await self._look(tasks)
                        await self._check_if_due(tasks)
                    except StoreUnavailable:  # which the store has logged
                        self._seen = ""
                if not self._running:
                    self._tasks = None  # so that the next request starts another task
        finally:
            if self._tasks is tasks:
                self._tasks = None
                await self._stop_heartbeats()
            ended.set()

    async def _look(self, tasks: TaskGroup) -> None:
        """Run the changes that were approved since the last look."""
        version = await self.storage.pending_version()
        if version == self._seen:
            return
        self._seen = version
        for identifier, change in [*self._pending.items()]:
            request = await self._current(identifier)
            if request is not None and request.decision is None:
                continue
            self._pending.pop(identifier, None)
            if request is not None and request.decision and request.decision.is_approval:
                self._running.add(identifier)
                tasks.start_soon(self._run_until_settled, request, change)

    async def _check_if_due(self, tasks: TaskGroup) -> None:
        """Check now and then whether pending requests have become obsolete."""
        now = await self.storage.now()
        if now >= self._check_at and not self._is_checking:
            self._check_at, self._is_checking = now + _CHECK_EVERY, True
            tasks.start_soon(self._withdraw_obsolete)

    async def _current(self, identifier: str) -> ApprovalRequest | None:
        """Return a request of this process, pending or decided; None if it has expired."""
        request = await self.storage.find_request(identifier)
        if request is None or not self._is_own(request):
            return None
        now = await self.storage.now()
        if request.has_expired(now):  # may have been decided just before
            request = await self.storage.find_request_after_writes(identifier)
        return request if request and not request.has_expired(now) else None

    def _is_own(self, request: ApprovalRequest | None) -> bool:
        return request is not None and request.server == self.server

    async def _run_until_settled(self, request: ApprovalRequest, change: _Change) -> None:
        until = (request.decision.at if request.decision else 0) + _PATIENCE
        try:
            is_last = False
            while not (is_last or self.ending.is_set()):
                with suppress(CallsError):
                    is_last = await self.storage.now() >= until
                    if await self._run(request.identifier, change, is_last=is_last):
                        return
                await self._pause(_RETRY * self.interval)
        finally:
            self._running.remove(request.identifier)

    async def _run(self, identifier: str, change: _Change, *, is_last: bool) -> bool:
        """Run an approved change as if the client had repeated it. Return whether it is settled.

        The last attempt settles it even if the API can't be reached.
        """
        caller, operation = change.caller, change.operation
        async with self._invoker(change) as (invoker, is_permitted):
            guard = (await invoker.executor()).guard
            if not is_permitted:
                arguments = validate(operation, change.arguments)
                await guard.refuse(identifier, arguments, caller, _revoked(operation))
                return True
            answer = Answer(identifier, by="server")
            outcome = await invoker.invoke(operation, change.arguments, caller, answer)
            if is_last or outcome.error_kind in _FINAL:
                await guard.confirmations.end(identifier, outcome)
            return await guard.confirmations.is_claimed(identifier)

    async def _withdraw_obsolete(self) -> None:
        """Withdraw the pending requests whose changes could not be made even if approved."""
        try:
            for identifier, change in [*self._pending.items()][:_AT_ONCE]:
                with suppress(CallsError):
                    await self._withdraw_if_obsolete(identifier, change)
                if identifier in self._pending:  # the others are next
                    self._pending[identifier] = self._pending.pop(identifier)
        finally:
            self._is_checking = False

    async def _withdraw_if_obsolete(self, identifier: str, change: _Change) -> None:
        caller, arguments = change.caller, validate(change.operation, change.arguments)
        async with self._invoker(change) as (invoker, is_permitted):
            guard = (await invoker.executor()).guard
            if is_permitted:
                until = anyio.current_time() + invoker.deadline
                await guard.withdraw_if_obsolete(identifier, arguments, caller, until)
            elif request := await self.storage.find_request(identifier):
                why = _revoked(change.operation).message
                await guard.withdraw(request, arguments, caller, why)

    @asynccontextmanager
    async def _invoker(self, change: _Change) -> AsyncGenerator[tuple[Invoker, bool]]:
        """Yield the invoker for a change, and whether its principal may still request it."""
        grant = change.grant
        if grant is not None:
            grant = await renewed_for(change.operation, grant, self.clock())
        overrides, principal = grant.overrides if grant else None, change.caller.principal
        with request_context(None, principal):
            async with self.invoker(principal, overrides) as invoker:
                yield invoker, grant is not None or change.grant is None

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the process is about to stop."""
        with anyio.move_on_after(seconds):
            await self.ending.wait()

    async def _beat(self) -> None:
        with suppress(StoreUnavailable):
            await self._heartbeat.beat()

    async def _stop_heartbeats(self) -> None:
        with anyio.move_on_after(_LAST_WRITES, shield=True), suppress(StoreUnavailable):
            await self._heartbeat.stop()


def _revoked(operation: Operation) -> InvalidConfirmation:
    return InvalidConfirmation(
        "Nothing was sent: after this request, its token was revoked, expired, or lost the "
        f"permission for {operation.name}.",
        f"To make a new request, retry with a token that permits {operation.name}.",
    )
