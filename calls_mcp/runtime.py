"""Everything one server needs to run invocations, made once and closed together."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import anyio

from calls_mcp.settings import Access, Settings

if TYPE_CHECKING:
    from calls_mcp.invocation import Invoker

_GRACE = 5  # seconds
_LEAST_WAIT = 2  # seconds


class Runtime:
    """Holds the settings, and the invoker made of them. An async context manager.

    `clock` gives the time in epoch seconds; `sandbox` marks every result as not real.
    """

    def __init__(
        self,
        settings: Settings,
        access: Access,
        *,
        sandbox: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.access = access
        self.sandbox = sandbox
        self.keys = settings.keys(access)
        self._clock = clock
        self._resources = AsyncExitStack()
        self._making = anyio.Lock()
        self._invoker: Invoker | None = None

    async def __aenter__(self) -> Self:
        """Read the operator's own policy and open a lasting state store, if there are any.

        Raises:
            ConfigurationError: The policy is wrong, or the store can't be used.
        """
        settings = self.settings
        if (
            settings.calls_mcp_policy
            or settings.calls_mcp_state_url.get_secret_value() != "memory:"
        ):
            await self.invoker()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close what the invoker opened."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close what the invoker opened. Closing twice does nothing."""
        await self._resources.aclose()

    async def invoker(self) -> "Invoker":
        """Made at the first invocation, so that a client that only lists tools waits for less."""
        async with self._making:
            if self._invoker is None:
                self._invoker = await self._make()
        return self._invoker

    async def _make(self) -> "Invoker":
        from calls_mcp.approvals import Approvals  # noqa: PLC0415
        from calls_mcp.audit import open_audit  # noqa: PLC0415
        from calls_mcp.changes import Changes  # noqa: PLC0415
        from calls_mcp.cursor import Cursors  # noqa: PLC0415
        from calls_mcp.delivery import Delivery  # noqa: PLC0415
        from calls_mcp.invocation import Invoker, Terms  # noqa: PLC0415
        from calls_mcp.policy import load_policy  # noqa: PLC0415
        from calls_mcp.quotas import Quotas  # noqa: PLC0415
        from calls_mcp.seal import Seal  # noqa: PLC0415
        from calls_mcp.store import Keeping, open_store  # noqa: PLC0415
        from calls_mcp.throttle import Throttle  # noqa: PLC0415
        from calls_mcp.twilio import TwilioClient  # noqa: PLC0415

        settings, enter = self.settings, self._resources.enter_async_context
        wait = max(_LEAST_WAIT, self.access.deadline / 4)  # for what other processes are using
        # Whoever waits for the outcome of another's change waits a little longer than that takes.
        keeping = Keeping(
            patience=self.access.deadline + _GRACE, busy=min(5, wait), clock=self._clock
        )
        store = await enter(open_store(settings.calls_mcp_state_url.get_secret_value(), keeping))
        audit = await enter(
            open_audit(
                settings.calls_mcp_audit_file,
                settings.calls_mcp_audit_database,
                settings.calls_mcp_audit_numbers,
                self._clock,
                min(10, wait),
            )
        )
        twilio = TwilioClient(self.access)
        self._resources.push_async_callback(twilio.aclose)
        seal, account_sid = Seal(self.keys), self.access.account_sid
        approvals = Approvals(store, seal, settings.calls_mcp_confirm_ttl, self._clock)
        policy = load_policy(settings.calls_mcp_policy).relaxed(settings.calls_mcp_confirm)
        delivery = Delivery(twilio, store, self.access.deadline, self._clock)
        quotas = Quotas(store, policy.caps, delivery.fetch, self._clock)
        changes = Changes(delivery, approvals, quotas, audit, policy, self._clock)
        cursors = Cursors(seal, account_sid, settings.calls_mcp_result_bytes)
        terms = Terms(
            account_sid,
            self.access.deadline,
            settings.calls_mcp_result_bytes,
            self.sandbox,
        )
        throttle = Throttle(policy.caps, self._clock)
        return Invoker(twilio, changes, cursors, throttle, policy, terms)
