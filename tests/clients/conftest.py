from collections.abc import AsyncGenerator

import pytest

from tests.http.replica import replica


@pytest.fixture
async def sandbox() -> AsyncGenerator[str]:
    """The URL of a sandbox that is served over HTTP."""
    async with replica({}, "--sandbox") as served:
        yield served.url
