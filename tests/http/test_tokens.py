"""Tokens of our own: who gets in with them, and for how long."""

import logging
from collections.abc import AsyncGenerator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from tests.http.service import (
    EVERYTHING,
    LocalService,
    by_tokens,
    challenge,
    entry,
    open_service,
    write,
)

pytestmark = pytest.mark.anyio

LIST = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with tokens of Alice's, who may do everything, and of Bob's, who may read."""
    return write(
        tmp_path / "principals.toml",
        entry("alices-token", "alice", *EVERYTHING),
        entry("bobs-token", "bob", "calls:read"),
        entry("old-token", "carol", *EVERYTHING, lasts=timedelta(seconds=-1)),
    )


def spoil(file: Path, text: str | None) -> None:
    """Write something else, or take the file away."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text, "utf-8")


@pytest.fixture
async def service(file: Path) -> AsyncGenerator[LocalService]:
    async with open_service(**by_tokens(file)) as service:
        yield service


@pytest.mark.requirement("19", "23")
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer alices-toke",
        "Bearer  alices-token",
        "Bearer old-token",
        "Basic YWxpY2U6YWxpY2VzLXRva2Vu",
        "alices-token",
        "Bearer ALICES-TOKEN",
        f"Bearer {sha256(b'alices-token').hexdigest()}",
        "Bearer \xff\xfe",
    ],
)
async def test_whoever_has_none_is_told_so_in_the_same_words(
    authorization: str | None, service: LocalService
) -> None:
    shown = {} if authorization is None else {"Authorization": authorization}
    answer = await service.post(LIST, shown)
    assert answer.status_code == 401
    reason = "invalid_token: A valid bearer token is required"
    assert answer.json()["error"] == {"code": -32600, "message": reason}
    told = challenge(answer)
    assert told["scope"] == "calls:read"
    assert told.get("error") == (None if authorization is None else "invalid_token")
    for path in ("/mcp", "/mcp?access_token=alices-token"):
        assert (await service.get(path)).status_code == 401
    assert service.harness.emulator.requests == ()


async def test_a_token_that_is_struck_out_or_written_in_counts_at_once(
    file: Path, caplog: pytest.LogCaptureFixture, service: LocalService
) -> None:
    assert (await service.of("bobs-token").post(LIST)).status_code != 401
    write(file, entry("new-token", "dora", "calls:read"))
    assert (await service.of("bobs-token").post(LIST)).status_code == 401
    assert (await service.of("new-token").post(LIST)).status_code != 401
    assert f"Reloaded the principals file {file}" in caplog.text


@pytest.mark.parametrize("broken", ["[[tokens]", None])
async def test_a_file_that_is_broken_or_gone_is_logged_and_the_last_good_one_holds(
    file: Path, caplog: pytest.LogCaptureFixture, broken: str | None, service: LocalService
) -> None:
    spoil(file, broken)
    for _ in range(2):
        assert (await service.of("bobs-token").post(LIST)).status_code != 401
        assert (await service.of("other").post(LIST)).status_code == 401
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert f"{file}:" in errors[0]
    write(file, entry("new-token", "dora", "calls:read"))
    assert (await service.of("bobs-token").post(LIST)).status_code == 401
