"""A runtime on an emulator inside this process: no credentials, no telephone, no bill."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from calls_mcp.emulator import DEFAULT_ACCOUNT, Emulator, seed_history
from calls_mcp.runtime import Runtime
from calls_mcp.settings import Access, Settings

_PAST_CALLS = 40


@asynccontextmanager
async def open_sandbox(settings: Settings) -> AsyncGenerator[Runtime]:
    """A runtime whose calls begin with a little history and end with the process."""
    async with emulated(settings) as access, Runtime(settings, access, sandbox=True) as runtime:
        yield runtime


@asynccontextmanager
async def emulated(settings: Settings) -> AsyncGenerator[Access]:
    """Access to an emulator with that history."""
    async with Emulator() as emulator:
        seed_history(emulator.calls, 1, _PAST_CALLS, emulator.clock())
        yield Access(
            base_url=emulator.base_url,
            account_sid=DEFAULT_ACCOUNT.sid,
            username=DEFAULT_ACCOUNT.sid,
            password=DEFAULT_ACCOUNT.auth_token,
            timeout=settings.twilio.timeout,
            deadline=settings.twilio.deadline,
        )
