from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
import redis

from calls_mcp.emulator import ManualClock
from calls_mcp.store import Keeping, Store, open_store

from .redis_server import RedisServer


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> str:
    client: Any = redis.Redis(port=shared_redis.port)
    with client:
        client.flushall()
    return shared_redis.url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state.db"


@pytest.fixture
def memory_url() -> str:
    return "memory:"


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """Of every kind of store in turn."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(params=["sqlite", "redis"])
def shared_url(request: pytest.FixtureRequest) -> str:
    """Of every kind of store that processes can share."""
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
