from collections.abc import AsyncGenerator

import pytest

from calls_mcp.emulator import ManualClock
from calls_mcp.store import Keeping, Store, open_store


@pytest.fixture
def memory_url() -> str:
    return "memory:"


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """Of every kind of store in turn."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def keeping(clock: ManualClock) -> Keeping:
    return Keeping(retention=100, patience=0.2, each=3, clock=clock)


@pytest.fixture
async def store(url: str, keeping: Keeping) -> AsyncGenerator[Store]:
    async with open_store(url, keeping) as store:
        yield store
