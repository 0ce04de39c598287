"""Create the objects that only changes need. `wiring` imports this lazily."""

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from calls_mcp.audit.log import AuditLog, audit_path, open_audit
from calls_mcp.errors import AuditUnavailable, StoreUnavailable
from calls_mcp.guard.approval_requests import ApprovalRequests
from calls_mcp.guard.confirmations import Confirmations
from calls_mcp.guard.decisions import Guard
from calls_mcp.guard.execution import Executor, Sender
from calls_mcp.guard.limits import CallLimits
from calls_mcp.guard.operator_decisions import Approvals
from calls_mcp.guard.policy.rules import Policy
from calls_mcp.guard.signing import Signer
from calls_mcp.service.approvals_webhook import ApprovalsWebhook
from calls_mcp.service.approved_changes import ApprovedChanges, OpenInvoker
from calls_mcp.service.background_tasks import BackgroundTasks
from calls_mcp.settings import OUTCOME_GRACE, Access, Settings
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.records import StorageOptions
from calls_mcp.twilio.client import ClientPool

_LEAST_WAIT = 2  # seconds


@dataclass(frozen=True, kw_only=True)
class ChangeServices:
    """What all changes share. `clock` returns epoch seconds. `server` names this process."""

    settings: Settings
    clients: ClientPool
    signer: Signer
    clock: Callable[[], float]
    storage: Storage
    audit: AuditLog
    server: str

    @property
    def approvals(self) -> Approvals | None:
        """The approval requests; None if the store is in memory, which no operator sees."""
        if not self.storage.is_shared:
            return None
        timeout = self.settings.twilio.deadline + OUTCOME_GRACE
        return Approvals(self.storage, self.audit, timeout)

    def approved_changes(
        self, invoker: OpenInvoker, background: BackgroundTasks, ending: anyio.Event, poll: float
    ) -> ApprovedChanges:
        """Return what runs the changes of this process after the operator approves them."""
        return ApprovedChanges(
            storage=self.storage,
            server=self.server,
            invoker=invoker,
            background=background,
            ending=ending,
            clock=self.clock,
            interval=poll,
            webhook=ApprovalsWebhook.from_settings(
                self.settings, self.storage, background, self.clock
            ),
        )

    async def is_ready(self) -> bool:
        """Return whether changes can be stored and recorded."""
        try:
            await self.storage.ping()
            await self.audit.require_ready()
        except (StoreUnavailable, AuditUnavailable):
            return False
        return True

    def executor(self, access: Access, policy: Policy) -> Executor:
        """Return what executes the changes on an account with a policy."""
        twilio, settings = self.clients.client(access), self.settings.guard
        guard = Guard(
            policy=policy,
            account_sid=access.account_sid,
            twilio=twilio,
            confirmations=Confirmations(self.storage, self.signer, settings.confirm_ttl),
            limits=self.limits(access, policy),
            requests=self._requests(),
            audit=self.audit,
            clock=self.clock,
            is_read_only=settings.read_only,
        )
        return Executor(Sender(twilio, self.storage, access.deadline, self.clock), guard)

    def limits(self, access: Access, policy: Policy) -> CallLimits:
        """Return the limits of a policy on the calls of an account."""
        twilio, digest = self.clients.client(access), self.signer.digest
        return CallLimits(
            self.storage, twilio, policy.caps, access.account_sid, access.deadline, digest
        )

    def _requests(self) -> ApprovalRequests | None:
        if not self.storage.is_shared:
            return None
        ttl, wait = self.settings.guard.operator_ttl, self.settings.guard.operator_wait
        console = self.settings.console
        return ApprovalRequests(self.storage, ttl, wait, self.server, console)


@asynccontextmanager
async def open_changes(
    settings: Settings,
    access: Access,
    clients: ClientPool,
    signer: Signer,
    clock: Callable[[], float],
    *,
    sandbox: bool,
) -> AsyncGenerator[ChangeServices]:
    """Open the state store and the audit log.

    Raises:
        ConfigurationError: The store can't be used.
    """
    busy = max(_LEAST_WAIT, access.deadline / 4)  # seconds to wait for locks of other processes
    # Waiting for the outcome of another process must outlast that process's deadline.
    options = StorageOptions(
        outcome_timeout=access.deadline + OUTCOME_GRACE,
        timeout=min(5, busy),
        clock=clock,
    )
    path, numbers = audit_path(settings, sandbox=sandbox), settings.audit.numbers
    async with (
        open_storage(settings.storage.location, options, sandbox=sandbox) as storage,
        open_audit(path, numbers, clock, min(10, busy)) as audit,
    ):
        yield ChangeServices(
            settings=settings,
            clients=clients,
            signer=signer,
            clock=clock,
            storage=storage,
            audit=audit,
            server=secrets.token_hex(8),
        )
