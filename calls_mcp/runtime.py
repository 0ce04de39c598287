"""Everything one server needs to run invocations, made once and closed together."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Self

from calls_mcp.settings import Access, Settings

if TYPE_CHECKING:
    from calls_mcp.invocation import Invoker


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

    async def __aenter__(self) -> Self:
        """Opens nothing yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close what the invoker opened."""
        await self._resources.aclose()

    @cached_property
    def invoker(self) -> "Invoker":
        """Made at the first invocation, so that a client that only lists tools waits for less."""
        from calls_mcp.approvals import Approvals  # noqa: PLC0415
        from calls_mcp.cursor import Cursors  # noqa: PLC0415
        from calls_mcp.invocation import Invoker, Terms  # noqa: PLC0415
        from calls_mcp.seal import Seal  # noqa: PLC0415
        from calls_mcp.store import MemoryStore  # noqa: PLC0415
        from calls_mcp.twilio import TwilioClient  # noqa: PLC0415

        seal = Seal(self.keys)
        twilio = TwilioClient(self.access)
        self._resources.push_async_callback(twilio.aclose)
        ttl = self.settings.calls_mcp_confirm_ttl
        terms = Terms(
            account_sid=self.access.account_sid,
            confirm=self.settings.calls_mcp_confirm,
            result_bytes=self.settings.calls_mcp_result_bytes,
            sandbox=self.sandbox,
        )
        approvals = Approvals(MemoryStore(), seal, ttl, self._clock)
        cursors = Cursors(seal, terms.account_sid, terms.result_bytes)
        return Invoker(twilio, approvals, cursors, terms, self._clock)
