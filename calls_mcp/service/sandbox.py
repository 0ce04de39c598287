"""A runtime on an emulator inside this process: no credentials, no real calls, no port."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from calls_mcp.emulator import Emulator, seed_history
from calls_mcp.service.runtime import Runtime
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
    async with Emulator(port=None) as emulator:
        seed_history(emulator.calls, 1, _PAST_CALLS, emulator.clock())
        yield access_to(emulator, settings)


def access_to(emulator: Emulator, settings: Settings) -> Access:
    """Access to an emulator in this process."""
    return Access(
        base_url="http://emulator",
        account_sid=emulator.account.sid,
        username=emulator.account.sid,
        password=emulator.account.auth_token,
        timeout=settings.twilio.timeout,
        deadline=settings.twilio.deadline,
        app=emulator.app,
    )
