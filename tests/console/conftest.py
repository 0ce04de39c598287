from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.chromium import open_async_browser
from tests.console.harness import Harness, WebClient, open_harness, sign_in


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Override the fixture with one for a module, because its tests share a browser."""
    return "asyncio"


@pytest.fixture(scope="module")
async def chromium() -> AsyncGenerator[Browser]:
    """A browser for a module, because it is slow to start."""
    async with open_async_browser() as browser:
        yield browser


@pytest.fixture
def rules() -> str:
    """The confirmation rules of `harness`. A module can override them."""
    return 'place = "operator"'


@pytest.fixture
async def harness(tmp_path: Path, rules: str) -> AsyncGenerator[Harness]:
    async with open_harness(tmp_path, rules) as harness:
        yield harness


@pytest.fixture
async def ann(harness: Harness) -> AsyncGenerator[WebClient]:
    """An operator who is signed in."""
    async with sign_in(harness.console) as client:
        yield client
