"""Tokens from the principals file: which are accepted, and when changes take effect."""

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
    """A principals file with a token for everything, one for reading, and an expired one."""
    return write(
        tmp_path / "principals.toml",
        entry("alices-token", "alice", *EVERYTHING),
        entry("bobs-token", "bob", "calls:read"),
        entry("old-token", "carol", *EVERYTHING, lasts=timedelta(seconds=-1)),
    )


def delete(file: Path) -> None:
    file.unlink()


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
async def test_every_invalid_token_gets_the_same_401(
    authorization: str | None, service: LocalService
) -> None:
    shown = {} if authorization is None else {"Authorization": authorization}
    answer = await service.post(LIST, shown)
    assert answer.status_code == 401
    reason = "invalid_token: A valid bearer token is required"
    assert answer.json()["error"] == {"code": -32600, "message": reason}
    fields = challenge(answer)
    assert fields["scope"] == "calls:read"
    assert fields.get("error") == (None if authorization is None else "invalid_token")
    for path in ("/mcp", "/mcp?access_token=alices-token"):
        assert (await service.get(path)).status_code == 401
    assert service.harness.emulator.requests == ()


async def test_adding_or_removing_a_token_takes_effect_immediately(
    file: Path, caplog: pytest.LogCaptureFixture, service: LocalService
) -> None:
    assert (await service.of("bobs-token").post(LIST)).status_code != 401
    write(file, entry("new-token", "dora", "calls:read"))
    assert (await service.of("bobs-token").post(LIST)).status_code == 401
    assert (await service.of("new-token").post(LIST)).status_code != 401
    assert f"Reloaded the principals file {file}" in caplog.text


async def test_a_broken_file_is_logged_and_the_last_valid_one_stays_in_use(
    file: Path, caplog: pytest.LogCaptureFixture, service: LocalService
) -> None:
    write(file, "[[tokens]")
    for _ in range(2):
        assert (await service.of("bobs-token").post(LIST)).status_code != 401
        assert (await service.of("other").post(LIST)).status_code == 401
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert f"{file}:" in errors[0]
    write(file, entry("new-token", "dora", "calls:read"))
    assert (await service.of("bobs-token").post(LIST)).status_code == 401


async def test_without_the_file_no_token_is_accepted_until_it_is_back(
    file: Path, caplog: pytest.LogCaptureFixture, service: LocalService
) -> None:
    delete(file)
    for token in ("bobs-token", "alices-token", "other", "bobs-token"):
        answer = await service.of(token).post(LIST)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert f"requests are refused until it can be read: {file}: can't be read" in errors[0]
    write(file, "[[tokens]")
    assert (await service.of("bobs-token").post(LIST)).status_code == 503
    write(file, entry("new-token", "dora", "calls:read"))
    assert (await service.of("bobs-token").post(LIST)).status_code == 401
    assert (await service.of("new-token").post(LIST)).status_code not in (401, 503)
