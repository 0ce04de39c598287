from collections.abc import AsyncGenerator

import pytest

from tests.http.service import LocalService, open_service


@pytest.fixture
async def service() -> AsyncGenerator[LocalService]:
    """A service with the default settings on an emulator."""
    async with open_service() as service:
        yield service


@pytest.fixture
async def impatient() -> AsyncGenerator[LocalService]:
    """A service that waits 0.2 s for a head or a body."""
    async with open_service(calls_mcp_http_patience=0.2) as service:
        yield service
