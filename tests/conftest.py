import os
from collections.abc import AsyncGenerator

import pytest
from hypothesis import HealthCheck, settings

from tests.rig import Rig, open_rig

# How long an example takes says more about the machine than about the product.
settings.register_profile("calls-mcp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calls-mcp")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("TWILIO_", "CALLS_MCP_")):
            monkeypatch.delenv(name)


@pytest.fixture
async def rig() -> AsyncGenerator[Rig]:
    """A server on an emulator, with the default settings."""
    async with open_rig() as rig:
        yield rig
