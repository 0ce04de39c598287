"""`calls-mcp token` creates, lists and revokes tokens that the HTTP server accepts."""

import json
import tomllib
from pathlib import Path

import pytest

from calls_mcp.cli.main import main
from tests.http.service import by_tokens, entry, open_service, write

pytestmark = pytest.mark.anyio


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of a principals file that does not exist yet."""
    return tmp_path / "principals.toml"


def create(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Create a token and return it."""
    assert main(["token", "new", *map(str, arguments)]) == 0
    (token,) = capsys.readouterr().out.splitlines()
    return token


async def test_a_new_token_grants_its_scopes(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reading = create(capsys, "alice", "--scope", "calls:read", "--file", file)
    placing = create(
        capsys, "bob", "--scope", "calls:place", "--scope", "calls:read", "--file", file
    )
    async with open_service(**by_tokens(file)) as service:
        async with service.of(reading).connect() as alice:
            tools = (await alice.client.list_tools()).tools
            assert [tool.name for tool in tools] == ["fetch_call", "list_calls"]
        async with service.of(placing).connect() as bob:
            tools = (await bob.client.list_tools()).tools
            assert [tool.name for tool in tools] == ["create_call", "fetch_call", "list_calls"]


def test_a_new_file_is_private_and_has_only_the_hash_of_the_token(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = create(capsys, "alice", "--scope", "calls:read", "--file", file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert token not in file.read_text("utf-8")
    assert len(token) > 43


def test_a_new_token_leaves_the_rest_of_the_file_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = f"# mine\n{entry('old', 'alice', 'calls:read')}\n[principals.alice]".rstrip("\n")
    file = write(tmp_path / "principals.toml", before)
    file.chmod(0o640)
    create(capsys, "alice", "--scope", "calls:read", "--file", file)
    after = file.read_text("utf-8")
    assert after.startswith(before + "\n\n[[tokens]]\n")
    assert len(tomllib.loads(after)["tokens"]) == 2
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_new_token_without_a_file_shows_its_entry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "new", "alice", "--scope", "calls:read", "--expires", "1"]) == 0
    printed = capsys.readouterr()
    shown = tomllib.loads(printed.err.partition("\n\n")[2])
    assert shown["tokens"][0]["principal"] == "alice"
    assert printed.out.strip() not in printed.err


def test_a_new_token_that_would_break_the_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "principals.toml", "tokens = []\n")
    assert main(["token", "new", "alice", "--scope", "calls:read", "--file", str(file)]) == 2
    assert main(["token", "new", "b c", "--scope", "calls:read"]) == 2
    assert main(["token", "new", "alice", "--scope", "calls:all"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"{file}:3: " in printed.err
    assert "must be ASCII without spaces" in printed.err
    assert (
        "--scope calls:all: must be one of calls:read, calls:place, calls:change, calls:delete, "
        "calls:approve." in printed.err
    )
    assert file.read_text("utf-8") == "tokens = []\n"


@pytest.mark.parametrize("name", ["ali\nce", "ali\tce", "ali ce", "", "Ælfred"])
def test_a_wrong_name_is_refused(name: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "new", name, "--scope", "calls:read", "--file", str(file)]) == 2
    printed = capsys.readouterr().err
    assert printed == (
        "calls-mcp: The name must be ASCII without spaces, quotation marks or backslashes.\n"
    )
    assert not file.exists()


@pytest.mark.requirement("21")
def test_the_scope_for_approving_cannot_be_combined_with_tools(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--scope", "calls:approve", "--scope", "calls:place"]
    assert main(["token", "new", "ann", *both, "--file", str(file)]) == 2
    assert "--scope calls:approve can't be combined with other scopes" in capsys.readouterr().err
    assert not file.exists()


async def test_a_token_for_approving_grants_no_tools(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = create(capsys, "ann", "--scope", "calls:approve", "--file", file)
    async with open_service(**by_tokens(file)) as service:
        async with service.of(token).connect() as ann:
            assert (await ann.client.list_tools()).tools == []
        refused = await service.of(token).ask("tools/call", name="list_calls", arguments={})
        assert refused.status_code == 403


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (["alice"], "--scope"),
        (["alice", "--scope", "calls:read", "--expires", "0"], "must be 1 to 3650 days"),
        (["alice", "--scope", "calls:read", "--expires", "never"], "must be 1 to 3650 days"),
    ],
)
def test_wrong_arguments_are_usage_errors(
    wrong: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["token", "new", *wrong])
    assert end.value.code == 2
    assert fault in capsys.readouterr().err


def test_the_list_shows_principal_expiry_and_scopes(
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
        "PRINCIPAL  TOKEN          EXPIRES                         SCOPES",
        "alice      abababababab…  2999-01-30 23:00 UTC            calls:place calls:read",
        "bob        cdcdcdcdcdcd…  2020-01-31 00:00 UTC (expired)  calls:read",
    ]
    assert main(["token", "list", "--json"]) == 0
    alice, bob = json.loads(capsys.readouterr().out)["tokens"]
    assert alice == {
        "principal": "alice",
        "sha256": "ab" * 32,
        "scopes": ["calls:place", "calls:read"],
        "expires": "2999-01-30T23:00:00Z",
        "expired": False,
    }
    assert (bob["principal"], bob["expired"]) == ("bob", True)


def test_an_empty_list_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "principals.toml")
    assert main(["token", "list", "--file", str(file)]) == 0
    assert capsys.readouterr().out == f"{file} has no tokens.\n"


def test_tokens_need_no_other_settings(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS_MCP_PRINCIPALS", str(file))
    monkeypatch.setenv("CALLS_MCP_TIMEOUT", "wrong")
    create(capsys, "alice", "--scope", "calls:read")
    assert main(["token", "list"]) == main(["token", "revoke", "alice"]) == 0


def test_the_list_without_a_file_names_the_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "list"]) == 2
    assert "CALLS_MCP_PRINCIPALS" in capsys.readouterr().err


def test_revoking_removes_only_the_entry_of_the_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = f"# bob's, until May\n{entry('bobs', 'bob', 'calls:read')}"
    text = f"# mine\n{entry('old', 'alice', 'calls:read')}\n{kept}\n[principals.bob]\n"
    file = write(tmp_path / "principals.toml", text)
    file.chmod(0o640)
    assert main(["token", "revoke", "alice", "--file", str(file)]) == 0
    assert capsys.readouterr().out.startswith("Revoked: token ")
    assert file.read_text("utf-8") == f"# mine\n\n{kept}\n[principals.bob]\n"
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_token_can_be_revoked_by_its_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [entry(token, "alice", "calls:read") for token in ("one", "two")]
    file = write(tmp_path / "principals.toml", *entries)
    assert main(["token", "list", "--file", str(file)]) == 0
    _, _, second = capsys.readouterr().out.splitlines()
    assert main(["token", "revoke", second.split()[1], "--file", str(file)]) == 0
    assert [token["sha256"] for token in tomllib.loads(file.read_text("utf-8"))["tokens"]] == [
        tomllib.loads(entries[0])["tokens"][0]["sha256"]
    ]


def test_revoking_replaces_the_file_in_one_step(tmp_path: Path) -> None:
    kept = entry("kept", "kept", "calls:read")
    file = write(tmp_path / "principals.toml", entry("old", "alice", "calls:read"), kept)
    reader = file.open(encoding="utf-8")  # like a server that reads it at that moment
    assert main(["token", "revoke", "alice", "--file", str(file)]) == 0
    with reader:
        assert reader.read().count("[[tokens]]") == 2
    assert file.read_text("utf-8").strip() == kept.strip()
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no token for alice"),
        ("tokens = [{principal = 'alice', sha256 = '" + "ab" * 32 + "', "
         "scopes = ['calls:read'], expires = 2999-01-31T00:00:00Z}]\n", "by hand"),
    ],
)  # fmt: skip
def test_a_token_that_cannot_be_revoked_leaves_the_file_unchanged(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "principals.toml", text)
    assert main(["token", "revoke", "alice", "--file", str(file)]) == 2
    assert reason in capsys.readouterr().err
    assert file.read_text("utf-8") == text


def test_a_file_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "missing" / "principals.toml"
    assert main(["token", "new", "alice", "--scope", "calls:read", "--file", str(file)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert f"{file} can't be written: No such file or directory" in err
