from collections.abc import AsyncGenerator

import pytest

from tests.http.site import Here, open_site


@pytest.fixture
async def site() -> AsyncGenerator[Here]:
    """A service with the default settings on an emulator."""
    async with open_site() as site:
        yield site


@pytest.fixture
async def impatient() -> AsyncGenerator[Here]:
    """A service that waits 0.2 s for a head or a body."""
    async with open_site(calls_mcp_http_patience=0.2) as site:
        yield site
