from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from playwright import async_api

from tests.chromium import open_async_browser
from tests.console.desk import Browser, Desk, open_desk


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """As elsewhere; that of a whole module, for it shares a browser."""
    return "asyncio"


@pytest.fixture(scope="module")
async def chromium() -> AsyncGenerator[async_api.Browser]:
    """A browser for a module: starting it is what costs."""
    async with open_async_browser() as browser:
        yield browser


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with open_desk(tmp_path) as desk:
        yield desk


@pytest.fixture
async def browser(desk: Desk) -> AsyncGenerator[Browser]:
    """Ann's browser, which is signed in."""
    async with desk.operator() as browser:
        yield browser
