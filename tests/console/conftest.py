from collections.abc import AsyncGenerator

import pytest
from playwright.async_api import Browser

from tests.chromium import open_async_browser


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """As elsewhere; that of a whole module, for it shares a browser."""
    return "asyncio"


@pytest.fixture(scope="module")
async def chromium() -> AsyncGenerator[Browser]:
    """A browser for a module: starting it is what costs."""
    async with open_async_browser() as browser:
        yield browser
