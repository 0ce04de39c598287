"""Which store a URL names, and where the default one is."""

import re
import sqlite3
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import pytest

from calls_mcp.errors import ConfigurationError, StoreUnavailable
from calls_mcp.storage.database import default_path
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.records import Binding, PendingConfirmation

pytestmark = pytest.mark.anyio

PENDING = PendingConfirmation(Binding("create_call", "digest", "ann"), "", 4e9)


async def refusal_of(url: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        async with open_storage(url):
            pass
    assert "CALLS_MCP_STATE_URL" in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "url", ["", "memory", "sqlite:", "sqlite:///", "postgres://me:canary@db/1", "state.db"]
)
async def test_an_unknown_kind_of_url_is_rejected_without_repeating_it(url: str) -> None:
    refusal = await refusal_of(url)
    assert "memory:, sqlite:///FILE" in refusal
    assert "canary" not in refusal


@pytest.mark.parametrize(
    "url",
    [
        "redis://:canary@host:port/0",
        "redis://:canary@[::1/0",
        "redis://:canary@host/0?no_such_option=canary",
        "redis://:canary@host/0?protocol=canary",
        "redis://:canary@host/0?retry=canary",
        "redis://:canary@host/notanumber",
        "redis://:canary@host:6379/0/1",
        "rediss://:canary@host/0?ssl_cert_reqs=canary",
    ],
)
async def test_a_malformed_redis_url_is_rejected_without_repeating_it(url: str) -> None:
    refusal = await refusal_of(url)
    assert "canary" not in refusal
    assert "well-formed" in refusal


async def test_a_missing_redis_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "calls_mcp.storage.redis", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    refusal = await refusal_of("redis://127.0.0.1/0")
    assert "In the checkout of calls-mcp, run: pip install '.[redis]'" in refusal


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_an_unreachable_redis_is_reported_without_error_numbers(host: str) -> None:
    async with open_storage(f"redis://:canary@{host}:1/0") as storage:
        with pytest.raises(StoreUnavailable) as unavailable:
            await storage.ping()
    assert re.fullmatch(
        rf"The state store redis://{host}:1/0 can't be used: "
        "(connection refused|could not connect to any of the host's addresses). "
        "Check it, or set CALLS_MCP_STATE_URL to another store.",
        unavailable.value.for_operator,
    )


async def test_a_file_in_a_missing_folder_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "missing" / "state.db"
    assert await refusal_of(f"sqlite:///{file}") == (
        f"The state store {file} can't be used: there is no directory {file.parent}. The server "
        "must be able to write to the directory and the file. Check it, or set CALLS_MCP_STATE_URL "
        "to another store."
    )


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE TABLE moz_places (url TEXT)", "it is another program's database"),
        ("PRAGMA user_version = 99", "it was written by a newer version of calls-mcp"),
    ],
)
async def test_a_database_of_another_program_or_version_is_rejected_unchanged(
    tmp_path: Path, statement: str, reason: str
) -> None:
    file = tmp_path / "state.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute(statement)
    before = file.read_bytes()
    assert await refusal_of(f"sqlite:///{file}") == (
        f"The state store {file} can't be used: {reason}. "
        "Check it, or set CALLS_MCP_STATE_URL to another store."
    )
    assert file.read_bytes() == before


async def test_a_file_that_is_not_a_database_is_rejected_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("x" * 5000, "utf-8")
    assert "not a database" in await refusal_of(f"sqlite:///{file}")
    assert file.read_text("utf-8") == "x" * 5000


async def test_a_relative_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_storage("sqlite:///state.db") as storage:
        await storage.add_confirmation("one", PENDING)
        assert (tmp_path / "state.db").exists()


@pytest.mark.process
async def test_a_process_with_two_connections_shares_the_file_with_others(
    tmp_path: Path,
) -> None:
    file = tmp_path / "state.db"
    async with open_storage(f"sqlite:///{file}") as storage, open_storage(f"sqlite:///{file}"):
        await storage.add_confirmation("one", PENDING)
        assert await counted(file) == 1
        await storage.add_confirmation("two", PENDING)
        assert await counted(file) == 2


async def counted(file: Path) -> int:
    """Return how many confirmations another process finds in the store."""
    program = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1])\n"
    program += "print(db.execute('SELECT count(*) FROM confirmations').fetchone()[0]); db.close()"
    told = await anyio.run_process([sys.executable, "-c", program, str(file)])
    return int(told.stdout)


async def read(storage: Storage) -> None:
    """Call every method that only reads."""
    assert await storage.find_confirmation("one") is None
    assert await storage.confirmation_state("one") is None
    assert await storage.get_with_ttl("key") is None
    assert [*await storage.newest_requests(9)] == []
    assert (await storage.pending_requests(9)).count == 0
    assert await storage.pending_version() == "0.0"


async def test_the_default_store_is_a_file_of_the_user_created_at_the_first_change() -> None:
    file = default_path()
    async with open_storage() as storage, open_storage() as other:
        await read(storage)
        await storage.ping()
        assert not file.parent.exists()
        await storage.add_confirmation("one", PENDING)
        assert await other.find_confirmation("one") == PENDING
        assert file.parent.stat().st_mode & 0o777 == 0o700
        assert {each.stat().st_mode & 0o777 for each in file.parent.iterdir()} == {0o600}
        with closing(sqlite3.connect(file)) as found:
            assert found.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_the_default_folder_is_made_private() -> None:
    file = default_path()
    file.parent.mkdir(mode=0o755, parents=True)
    async with open_storage() as storage:
        await storage.add_confirmation("one", PENDING)
        for each in (file.parent, *file.parent.iterdir()):
            each.chmod(0o755)
        async with open_storage() as other:
            assert await other.find_confirmation("one") == PENDING
        assert file.parent.stat().st_mode & 0o777 == 0o700
        assert {each.stat().st_mode & 0o077 for each in file.parent.iterdir()} == {0}


async def test_the_sandbox_has_its_own_file() -> None:
    async with open_storage(sandbox=True) as storage:
        await storage.add_confirmation("one", PENDING)
    names = {each.name for each in default_path().parent.iterdir()}
    assert names == {"sandbox.db", "sandbox.db-claims"}


@pytest.mark.parametrize("folder", ["file/calls-mcp", "~/.local/state"])
async def test_a_default_that_cannot_be_written_refuses_changes_and_not_reads(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    where = Path(folder) if folder[0] == "~" else tmp_path / folder  # ~: there is no home
    monkeypatch.setattr("calls_mcp.storage.database.default_path", partial(found, where))
    async with open_storage() as storage:
        await read(storage)
        for write in (storage.ping, lambda: storage.add_confirmation("one", PENDING)):
            with pytest.raises(StoreUnavailable) as refused:
                await write()
            assert "CALLS_MCP_STATE_URL" in refused.value.hint
            assert folder.partition("/")[0] in caplog.text


def found(where: Path, *, sandbox: bool = False) -> Path:
    return where / ("sandbox.db" if sandbox else "calls.db")


async def test_what_is_in_memory_is_not_shared() -> None:
    async with open_storage("memory:") as one, open_storage("memory:") as other:
        await one.add_confirmation("one", PENDING)
        assert await other.find_confirmation("one") is None
        assert not one.is_shared
        await one.ping()
