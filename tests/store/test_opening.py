import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from calls_mcp.errors import ConfigurationError
from calls_mcp.guard import Binding
from calls_mcp.store import Pending, open_store

pytestmark = pytest.mark.anyio


async def refusal_of(url: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        async with open_store(url):
            pass
    assert "CALLS_MCP_STATE_URL" in str(refused.value)
    return str(refused.value)


def modes_in(folder: Path) -> list[int]:
    return [file.stat().st_mode & 0o777 for file in folder.iterdir()]


@pytest.mark.parametrize(
    "url", ["", "memory", "sqlite:", "sqlite:///", "postgres://me:canary@db/1", "state.db"]
)
async def test_a_url_of_no_known_kind_is_refused_without_repeating_it(url: str) -> None:
    refusal = await refusal_of(url)
    assert "memory:, sqlite:///FILE" in refusal
    assert "canary" not in refusal


@pytest.mark.parametrize("url", ["redis://:canary@host:port/0", "redis://:canary@[::1/0"])
async def test_a_malformed_redis_url_is_refused_without_repeating_it(url: str) -> None:
    assert "canary" not in await refusal_of(url)


async def test_a_missing_redis_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "calls_mcp.store.redis", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    assert "pip install 'calls-mcp[redis]'" in await refusal_of("redis://127.0.0.1/0")


async def test_a_file_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in await refusal_of(f"sqlite:///{tmp_path}/missing/state.db")


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("x" * 5000, "utf-8")
    assert "not a database" in await refusal_of(f"sqlite:///{file}")
    assert file.read_text("utf-8") == "x" * 5000


async def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA user_version = 99")
    assert "newer version of calls-mcp" in await refusal_of(f"sqlite:///{file}")


async def test_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/state.db") as store:
        await store.ping()
        assert modes_in(tmp_path) == [0o600] * 3


async def test_a_relative_path_is_below_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_store("sqlite:///state.db"):
        assert (tmp_path / "state.db").exists()


async def test_a_process_that_opened_a_file_twice_shares_it_with_those_that_come_and_go(
    tmp_path: Path,
) -> None:
    file = tmp_path / "state.db"
    pending = Pending(Binding("create_call", "digest", "ann"), "", 4e9)
    async with open_store(f"sqlite:///{file}") as store, open_store(f"sqlite:///{file}"):
        assert await counted(file) == 0
        await store.put("one", pending)
        assert await counted(file) == 1


async def counted(file: Path) -> int:
    """How many questions another process finds there."""
    program = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1])\n"
    program += "print(db.execute('SELECT count(*) FROM confirmations').fetchone()[0]); db.close()"
    told = await anyio.run_process([sys.executable, "-c", program, str(file)])
    return int(told.stdout)
