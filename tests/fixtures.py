"""The fixtures that all tests can use."""

import os
import subprocess
from collections.abc import AsyncGenerator, Generator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import redis
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator
from tenacity.wait import wait_exponential_jitter

from calls_mcp.guard import recovery
from calls_mcp.twilio import client
from tests.harness import Harness, open_harness
from tests.isolation import keep_state_in
from tests.storage.redis_server import RedisServer

# The time of an example depends more on the machine than on the code. `.ci/run` runs the tests on
# two Pythons, with different examples.
settings.register_profile(
    "calls-mcp",
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("calls-mcp")

STARTS_PROCESSES = ("process", "browser", "services", "clients", "install")


@pytest.fixture(scope="session", autouse=True)
def _each_schema_checked_once() -> Generator[None]:
    """Check each tool's schema once, because each check takes a client of the SDK 25 ms."""
    check, checked = Draft202012Validator.check_schema, set[bytes]()

    def check_once(schema: Mapping[str, object]) -> None:
        key = orjson.dumps(schema)
        if key not in checked:
            check(schema)
            checked.add(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Draft202012Validator, "check_schema", staticmethod(check_once))
        yield


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _no_state_outside(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Keep the user's database away from everything that is started outside of a test."""
    with pytest.MonkeyPatch.context() as patch:
        keep_state_in(tmp_path_factory.mktemp("state"), patch)
        yield


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a state directory that does not exist yet."""
    keep_state_in(tmp_path_factory.getbasetemp() / f"state-{uuid4()}", monkeypatch)


@pytest.fixture(scope="session", autouse=True)
def _short_pauses() -> Generator[None]:
    """Make pauses between attempts and between lookups ten times shorter."""
    back_off = wait_exponential_jitter(multiplier=0.02, max=0.5, jitter=0.02)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_BACK_OFF", back_off)
        patch.setattr(recovery, "_PAUSES", (0.0, 0.05, 0.15))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("TWILIO_", "CALLS_MCP_")):
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _no_process_unless_marked(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep the default run in-process: a test that starts a process says so by a marker."""
    node = request.node

    def refuse(*_: object, **_options: object) -> None:
        pytest.fail("it starts a process: mark it with @pytest.mark.process")

    if not any(node.get_closest_marker(name) for name in STARTS_PROCESSES):
        monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
        monkeypatch.setattr(BaseProcess, "start", refuse)


@pytest.fixture
async def harness() -> AsyncGenerator[Harness]:
    """A server on an emulator, with the default settings."""
    async with open_harness() as harness:
        yield harness


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Generator[RedisServer]:
    """A Redis server that a test may stop and start."""
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
    """The URL of each kind of store that processes can share."""
    return request.getfixturevalue(f"{request.param}_url")
