"""Open the real Calls API, or the sandbox: an emulator in this process."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from calls_mcp.observability.redaction import one_line
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Access, Settings

if TYPE_CHECKING:
    from calls_mcp.emulator import Emulator

_PAST_CALLS = 40
_LONGEST_TRANSCRIPT = 50  # lines


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
