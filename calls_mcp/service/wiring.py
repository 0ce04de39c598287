"""Create the objects that invocations need. `Runtime` imports this lazily."""

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import anyio

from calls_mcp.audit import AuditLog, audit_path, open_audit
from calls_mcp.errors import AuditUnavailable, StoreUnavailable
from calls_mcp.guard.approval_requests import ApprovalRequests
from calls_mcp.guard.confirmations import Confirmations
from calls_mcp.guard.decisions import Guard
from calls_mcp.guard.execution import Executor
from calls_mcp.guard.limits import CallLimits
from calls_mcp.guard.operator_decisions import Approvals
from calls_mcp.guard.policy import Policy, load_policy
from calls_mcp.guard.send_once import Sender
from calls_mcp.guard.signing import Signer
from calls_mcp.service.approvals_webhook import ApprovalsWebhook
from calls_mcp.service.approved_changes import ApprovedChanges, OpenInvoker
from calls_mcp.service.background_tasks import BackgroundTasks
from calls_mcp.service.cursors import Cursors
from calls_mcp.service.invocation import Invoker
from calls_mcp.settings import OUTCOME_GRACE, Access, Settings
from calls_mcp.storage import Storage, StorageOptions, open_storage
from calls_mcp.storage.rate_limiter import RateLimiter
from calls_mcp.twilio.client import ClientPool

_LEAST_WAIT = 2  # seconds


@dataclass(frozen=True, kw_only=True)
class Services:
    """What all invokers share. `clock` returns epoch seconds. `server` names this process."""

    settings: Settings
    sandbox: bool
    clock: Callable[[], float]
    storage: Storage
    audit: AuditLog
    policy: Policy
    rates: RateLimiter
    signer: Signer
    clients: ClientPool
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
        """Return what runs the changes of this process after the operator approved them."""
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

    def invoker(self, access: Access, policy: Policy) -> Invoker:
        """Return a new invoker for an account with a policy."""
        twilio = self.clients.client(access)
        account_sid, deadline = access.account_sid, access.deadline
        ttl, most = self.settings.guard.confirm_ttl, self.settings.results.tokens
        confirmations = Confirmations(self.storage, self.signer, ttl)
        limits, requests = self.limits(access, policy), self._requests()
        guard = Guard(
            policy=policy,
            account_sid=account_sid,
            twilio=twilio,
            confirmations=confirmations,
            limits=limits,
            requests=requests,
            audit=self.audit,
            clock=self.clock,
            is_read_only=self.settings.guard.read_only,
        )
        sender = Sender(twilio, self.storage, deadline, self.clock)
        return Invoker(
            account_sid=account_sid,
            policy=policy,
            twilio=twilio,
            rates=self.rates,
            guard=guard,
            executor=Executor(sender, confirmations, limits, requests, self.audit),
            cursors=Cursors(self.signer, account_sid),
            deadline=deadline,
            result_tokens=most,
            sandbox=self.sandbox,
        )

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
async def open_services(
    settings: Settings,
    access: Access,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
    *,
    sandbox: bool,
) -> AsyncGenerator[Services]:
    """Open the state store and the audit log, and load the policy.

    Raises:
        ConfigurationError: The store can't be used, or the policy is invalid.
    """
    busy = max(_LEAST_WAIT, access.deadline / 4)  # seconds to wait for locks of other processes
    # Waiting for the outcome of another process must outlast that process's deadline.
    options = StorageOptions(
        outcome_timeout=access.deadline + OUTCOME_GRACE, timeout=min(5, busy), clock=clock
    )
    path, numbers = audit_path(settings, sandbox=sandbox), settings.audit.numbers
    async with (
        open_storage(settings.storage.location, options, sandbox=sandbox) as storage,
        open_audit(path, numbers, clock, min(10, busy)) as audit,
        aclosing(ClientPool(monotonic)) as clients,
    ):
        yield Services(
            settings=settings,
            sandbox=sandbox,
            clock=clock,
            storage=storage,
            audit=audit,
            policy=load_policy(settings.guard.policy),
            rates=RateLimiter(storage if storage.kind == "redis" else None, clock),
            signer=Signer(settings.guard.keys(access)),
            clients=clients,
            server=secrets.token_hex(8),
        )
