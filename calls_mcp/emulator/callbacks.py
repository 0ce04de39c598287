"""The delivery of queued callbacks."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import NAMESPACE_URL, uuid5

from calls_mcp.emulator.callback_queue import Callback, CallbackQueue
from calls_mcp.emulator.webhooks import TOTAL_SECONDS, Webhooks

POLL_INTERVAL = 0.05  # seconds
CONCURRENCY = 8

logger = logging.getLogger(__name__)


@dataclass
class CallbackSender:
    """Sends due callbacks.

    Attributes:
        queue: The callbacks.
        webhooks: Sends them.
    """

    queue: CallbackQueue
    webhooks: Webhooks
    _deliveries: "set[asyncio.Task[None]]" = field(init=False, default_factory=set)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Send while the context is open."""
        polling = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            tasks = [polling, *self._deliveries]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def settle(self) -> bool:
        """Send what is due, without waiting for the next poll. Return whether anything was."""
        has_sent = False
        while self._start():
            has_sent = True
            await asyncio.wait(self._deliveries, return_when=asyncio.FIRST_COMPLETED)
        return has_sent

    async def _poll(self) -> None:
        """Poll, because the clock can jump and other processes can place calls."""
        while True:
            self._start()
            await asyncio.sleep(POLL_INTERVAL)

    def _start(self) -> bool:
        """Start to send what is due, as far as possible. Return whether anything is being sent."""
        try:
            claimed = self.queue.claim(CONCURRENCY - len(self._deliveries), 2 * TOTAL_SECONDS)
        except sqlite3.OperationalError as error:  # while another process writes
            logger.warning("callbacks are delayed: %s", error)
            claimed = []
        for callback in claimed:
            delivery = asyncio.create_task(self._deliver(callback))
            self._deliveries.add(delivery)
            delivery.add_done_callback(self._deliveries.discard)
        return bool(self._deliveries)

    async def _deliver(self, callback: Callback) -> None:
        # the same if an emulator stops during a delivery, and the next one repeats it
        token = str(uuid5(NAMESPACE_URL, f"{callback.sid}/{callback.id}"))
        reply = await self.webhooks.send(callback.method, callback.url, callback.form, token)
        outcome = reply.failure or str(reply.status)
        self.queue.settle(callback.id, outcome, reply.attempts)
