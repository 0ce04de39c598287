from collections.abc import AsyncGenerator

import pytest

from calls_mcp.emulator import ManualClock
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.records import StorageOptions


@pytest.fixture
def memory_url() -> str:
    return "memory:"


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of each kind of storage in turn."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def options(clock: ManualClock) -> StorageOptions:
    return StorageOptions(
        retention=100, outcome_timeout=0.2, max_unused=3, clock=clock, is_simulated=True
    )


@pytest.fixture
async def storage(url: str, options: StorageOptions) -> AsyncGenerator[Storage]:
    async with open_storage(url, options) as storage:
        yield storage
