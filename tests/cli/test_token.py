"""`calls-mcp token`: what it makes is good at the gate."""

import tomllib
from pathlib import Path

import pytest

from calls_mcp.cli.main import main
from tests.http.service import by_tokens, entry, open_service, write

pytestmark = pytest.mark.anyio


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a file of principals can be."""
    return tmp_path / "principals.toml"


def made(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The token that the command prints."""
    assert main(["token", "new", *map(str, arguments)]) == 0
    (token,) = capsys.readouterr().out.splitlines()
    return token


async def test_a_new_token_is_good_for_its_scopes_in_the_file_it_was_added_to(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reading = made(capsys, "alice", "--scope", "calls:read", "--file", file)
    placing = made(capsys, "bob", "--scope", "calls:place", "--scope", "calls:read", "--file", file)
    async with open_service(**by_tokens(file)) as service:
        async with service.of(reading).connect() as alice:
            tools = (await alice.client.list_tools()).tools
            assert [tool.name for tool in tools] == ["fetch_call", "list_calls"]
        async with service.of(placing).connect() as bob:
            tools = (await bob.client.list_tools()).tools
            assert [tool.name for tool in tools] == ["create_call", "fetch_call", "list_calls"]


def test_the_file_is_its_owners_alone_and_does_not_have_the_token(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = made(capsys, "alice", "--scope", "calls:read", "--file", file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert token not in file.read_text("utf-8")
    assert len(token) > 43


def test_what_is_in_the_file_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = f"# mine\n{entry('old', 'alice', 'calls:read')}\n[principals.alice]".rstrip("\n")
    file = write(tmp_path / "principals.toml", before)
    file.chmod(0o640)
    made(capsys, "alice", "--scope", "calls:read", "--file", file)
    after = file.read_text("utf-8")
    assert after.startswith(before + "\n\n[[tokens]]\n")
    assert len(tomllib.loads(after)["tokens"]) == 2
    assert file.stat().st_mode & 0o777 == 0o640


def test_without_a_file_the_entry_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "new", "alice", "--scope", "calls:read", "--expires", "1"]) == 0
    told = capsys.readouterr()
    shown = tomllib.loads(told.err.partition("\n\n")[2])
    assert shown["tokens"][0]["principal"] == "alice"
    assert told.out.strip() not in told.err


def test_a_file_that_would_be_wrong_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "principals.toml", "tokens = []\n")
    assert main(["token", "new", "alice", "--scope", "calls:read", "--file", str(file)]) == 2
    assert main(["token", "new", "b c", "--scope", "calls:read"]) == 2
    assert main(["token", "new", "alice", "--scope", "calls:all"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert f"{file}:3: " in told.err
    assert "must be ASCII without spaces" in told.err
    assert (
        "--scope calls:all: there are calls:read, calls:place, calls:change, calls:delete, "
        "calls:approve." in told.err
    )
    assert file.read_text("utf-8") == "tokens = []\n"


@pytest.mark.parametrize("name", ["ali\nce", "ali\tce"])
def test_a_name_that_is_not_one_line_is_refused_as_that(
    name: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", "new", name, "--scope", "calls:read", "--file", str(file)]) == 2
    told = capsys.readouterr().err
    assert told == "calls-mcp: The name must be one line, without control characters.\n"
    assert not file.exists()


@pytest.mark.requirement("21")
def test_no_token_is_made_that_could_ask_and_approve(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--scope", "calls:approve", "--scope", "calls:place"]
    assert main(["token", "new", "ann", *both, "--file", str(file)]) == 2
    assert "--scope calls:approve goes alone" in capsys.readouterr().err
    assert not file.exists()


async def test_a_token_that_approves_is_shown_no_tool(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = made(capsys, "ann", "--scope", "calls:approve", "--file", file)
    async with open_service(**by_tokens(file)) as service:
        async with service.of(token).connect() as ann:
            assert (await ann.client.list_tools()).tools == []
        refused = await service.of(token).ask("tools/call", name="list_calls", arguments={})
        assert refused.status_code == 403


@pytest.mark.parametrize(
    "wrong",
    [
        ["alice"],
        ["alice", "--scope", "calls:read", "--expires", "0"],
        ["alice", "--scope", "calls:read", "--expires", "never"],
    ],
)
def test_what_can_not_be_made_is_a_usage_error(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["token", "new", *wrong])
    assert end.value.code == 2


def test_the_list_tells_whose_tokens_there_are_and_until_when(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        '[[tokens]]\nprincipal = "alice"\nscopes = ["calls:read", "calls:place"]\n'
        f'sha256 = "{"ab" * 32}"\nexpires = 2999-01-31T00:00:00+01:00\n'
        '[[tokens]]\nprincipal = "bob"\nscopes = ["calls:read"]\n'
        f'sha256 = "{"cd" * 32}"\nexpires = 2020-01-31T00:00:00Z\n'
        f'[principals.bob]\naccount_sid = "AC{"0" * 32}"\nauth_token_env = "NOT_SET_HERE"\n'
    )
    monkeypatch.setenv("CALLS_MCP_AUTH", "tokens")
    monkeypatch.setenv("CALLS_MCP_PRINCIPALS", str(write(tmp_path / "principals.toml", text)))
    assert main(["token", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "alice  abababababab…  expires 2999-01-30 23:00 UTC  calls:place calls:read",
        "bob    cdcdcdcdcdcd…  expired 2020-01-31 00:00 UTC  calls:read",
    ]


def test_without_any_file_the_list_asks_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "list"]) == 2
    assert "CALLS_MCP_PRINCIPALS" in capsys.readouterr().err


def test_a_revoked_token_is_out_of_the_file_and_nothing_else_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = f"# bob's, until May\n{entry('bobs', 'bob', 'calls:read')}"
    text = f"# mine\n{entry('old', 'alice', 'calls:read')}\n{kept}\n[principals.bob]\n"
    file = write(tmp_path / "principals.toml", text)
    file.chmod(0o640)
    assert main(["token", "revoke", "alice", "--file", str(file)]) == 0
    assert capsys.readouterr().out.startswith("revoked: alice  ")
    assert file.read_text("utf-8") == f"# mine\n\n{kept}\n[principals.bob]\n"
    assert file.stat().st_mode & 0o777 == 0o640


def test_one_of_a_principals_tokens_is_named_by_its_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [entry(token, "alice", "calls:read") for token in ("one", "two")]
    file = write(tmp_path / "principals.toml", *entries)
    assert main(["token", "list", "--file", str(file)]) == 0
    (_, second) = capsys.readouterr().out.splitlines()
    assert main(["token", "revoke", second.split()[1], "--file", str(file)]) == 0
    assert [token["sha256"] for token in tomllib.loads(file.read_text("utf-8"))["tokens"]] == [
        tomllib.loads(entries[0])["tokens"][0]["sha256"]
    ]


def test_while_a_token_is_revoked_the_others_are_good(tmp_path: Path) -> None:
    kept = entry("kept", "kept", "calls:read")
    file = write(tmp_path / "principals.toml", entry("old", "alice", "calls:read"), kept)
    reader = file.open(encoding="utf-8")  # as a server that has just begun to read
    assert main(["token", "revoke", "alice", "--file", str(file)]) == 0
    with reader:
        assert reader.read().count("[[tokens]]") == 2
    assert file.read_text("utf-8").strip() == kept.strip()
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "there is no token of alice"),
        ("tokens = [{principal = 'alice', sha256 = '" + "ab" * 32 + "', "
         "scopes = ['calls:read'], expires = 2999-01-31T00:00:00Z}]\n", "by hand"),
    ],
)  # fmt: skip
def test_what_can_not_be_revoked_is_told_and_left_as_it_is(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "principals.toml", text)
    assert main(["token", "revoke", "alice", "--file", str(file)]) == 2
    assert told in capsys.readouterr().err
    assert file.read_text("utf-8") == text


def test_a_file_that_can_not_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "missing" / "principals.toml"
    assert main(["token", "new", "alice", "--scope", "calls:read", "--file", str(file)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert f"{file}: can't be written: No such file or directory" in err
