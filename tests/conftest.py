import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings

from tests.rig import Rig, open_rig
from tests.store.redis_server import RedisServer

# How long an example takes says more about the machine than about the product.
settings.register_profile("calls-mcp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calls-mcp")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("TWILIO_", "CALLS_MCP_")):
            monkeypatch.delenv(name)


@pytest.fixture
async def rig() -> AsyncGenerator[Rig]:
    """A server on an emulator, with the default settings."""
    async with open_rig() as rig:
        yield rig


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Generator[RedisServer]:
    """One that a test may stop and start."""
    server = RedisServer(tmp_path)
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


@pytest.fixture(params=["sqlite", "redis"])
def shared_url(request: pytest.FixtureRequest) -> str:
    """Of every kind of store that processes can share."""
    return request.getfixturevalue(f"{request.param}_url")
