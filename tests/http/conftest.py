from collections.abc import AsyncGenerator

import pytest

from tests.http.service import LocalService, open_service


@pytest.fixture
async def service() -> AsyncGenerator[LocalService]:
    """A service with default settings, backed by the emulator."""
    async with open_service() as service:
        yield service


@pytest.fixture
async def impatient() -> AsyncGenerator[LocalService]:
    """A service that waits 0.2 s for request headers or a body."""
    async with open_service(calls_mcp_http_patience=0.2) as service:
        yield service
