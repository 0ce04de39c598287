from collections.abc import Generator
from pathlib import Path

import pytest

from tests.store.redis_server import RedisServer


@pytest.fixture
def own_redis(tmp_path: Path) -> Generator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()
