"""`calls-mcp client-config`: configurations that start this server, and no secrets in them."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from mcp import Client, StdioServerParameters

from calls_mcp import __version__
from calls_mcp.cli.clients import CLIENTS
from calls_mcp.cli.clients.server_command import Launch, launch_command
from calls_mcp.errors import ConfigurationError
from tests.cli.test_main import run
from tests.harness import ACCOUNT

module = sys.modules[launch_command.__module__]
SECRET = "5ecre7c4na12y5ecre7c4na12y000777"
KEY = "SK" + "0" * 32


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "APPDATA", "MCP_CATALOG_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # without the claude and code of this machine
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", ACCOUNT)
    monkeypatch.setenv("TWILIO_API_KEY", KEY)
    monkeypatch.setenv("TWILIO_API_SECRET", SECRET)
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", SECRET[::-1])
    monkeypatch.setenv("CALLS_MCP_STATE_URL", f"redis://:{SECRET}@127.0.0.1/0")
    monkeypatch.setenv("CALLS_MCP_SECRET_KEYS", SECRET)
    monkeypatch.setenv("CALLS_MCP_POLICY", "policy.toml")
    monkeypatch.setenv("CALLS_MCP_READ_ONLY", "true")
    monkeypatch.setenv("CALLS_MCP_HTTP_RATE", "5")


def configured(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command, which must end with this status."""
    told = run("client-config", *map(str, arguments))
    assert told.returncode == status, told.stderr
    return told


def entry_of(client: str, text: str, name: str = "calls") -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(text)[CLIENTS[client].key][name])


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("client", CLIENTS)
def test_no_secret_is_in_it_and_what_else_is_set_here_is(client: str, home: Path) -> None:
    told = configured(client)
    assert SECRET not in told.stdout + told.stderr
    assert SECRET[::-1] not in told.stdout + told.stderr
    env = entry_of(client, told.stdout)["env"]
    assert env["TWILIO_ACCOUNT_SID"] == ACCOUNT
    assert env["TWILIO_API_KEY"] == KEY
    assert env["CALLS_MCP_POLICY"] == str(home / "policy.toml")
    assert env["CALLS_MCP_READ_ONLY"] == "1"
    assert {*env} == {
        *("TWILIO_ACCOUNT_SID", "TWILIO_API_KEY", "TWILIO_API_SECRET", "CALLS_MCP_POLICY"),
        *("CALLS_MCP_READ_ONLY", "CALLS_MCP_STATE_URL", "CALLS_MCP_SECRET_KEYS"),
    }


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    ("client", "secret"),
    [
        ("claude-code", "${TWILIO_API_SECRET}"),
        ("cursor", "${env:TWILIO_API_SECRET}"),
        ("windsurf", "${env:TWILIO_API_SECRET}"),
        ("vscode", "${input:calls-twilio-api-secret}"),
        ("claude-desktop", "put your TWILIO_API_SECRET here"),
        ("zed", "put your TWILIO_API_SECRET here"),
        ("inspector", "put your TWILIO_API_SECRET here"),
    ],
)
def test_a_client_that_can_get_a_secret_elsewhere_does_and_for_others_it_is_said(
    client: str, secret: str
) -> None:
    told = configured(client)
    assert entry_of(client, told.stdout)["env"]["TWILIO_API_SECRET"] == secret
    by_hand = "can't ask for secrets: put TWILIO_API_SECRET," in told.stderr
    assert by_hand == secret.startswith("put")


@pytest.mark.usefixtures("credentials")
def test_vs_code_asks_for_each_secret_without_showing_it() -> None:
    made = json.loads(configured("vscode", "--name", "phone").stdout)
    asked = {item["id"]: item for item in made["inputs"]}
    wanted = [v for v in made["servers"]["phone"]["env"].values() if v.startswith("${input:")]
    assert sorted(wanted) == sorted(f"${{input:{identifier}}}" for identifier in asked)
    assert all(item["type"] == "promptString" and item["password"] for item in asked.values())


def test_without_any_credentials_it_asks_for_an_api_key() -> None:
    assert entry_of("cursor", configured("cursor").stdout)["env"] == {
        name: f"${{env:{name}}}"
        for name in ("TWILIO_ACCOUNT_SID", "TWILIO_API_KEY", "TWILIO_API_SECRET")
    }


@pytest.mark.parametrize(
    ("client", "platform", "where"),
    [
        ("claude-desktop", "linux", ".config/Claude/claude_desktop_config.json"),
        (
            "claude-desktop",
            "darwin",
            "Library/Application Support/Claude/claude_desktop_config.json",
        ),
        ("claude-desktop", "win32", "AppData/Roaming/Claude/claude_desktop_config.json"),
        ("claude-code", "linux", ".mcp.json"),
        ("cursor", "linux", ".cursor/mcp.json"),
        ("vscode", "linux", ".config/Code/User/mcp.json"),
        ("vscode", "darwin", "Library/Application Support/Code/User/mcp.json"),
        ("vscode", "win32", "AppData/Roaming/Code/User/mcp.json"),
        ("windsurf", "linux", ".codeium/windsurf/mcp_config.json"),
        ("zed", "linux", ".config/zed/settings.json"),
        ("zed", "darwin", ".config/zed/settings.json"),
        ("zed", "win32", "AppData/Roaming/Zed/settings.json"),
        ("inspector", "linux", ".mcp-inspector/mcp.json"),
    ],
)
def test_it_is_written_where_the_client_looks_for_it(
    client: str, platform: str, where: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert CLIENTS[client].file() == home / where


@pytest.mark.parametrize("client", CLIENTS)
def test_written_twice_it_is_there_once_and_the_second_time_nothing_is_done(
    client: str, home: Path
) -> None:
    file = CLIENTS[client].file()
    assert f"{file} was written." in configured(client, "--sandbox", "--write").stderr
    before = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"{file} has it already." in configured(client, "--sandbox", "--write").stderr
    assert file.read_bytes() == before
    assert [found for found in home.rglob("*") if found.is_file()] == [file]


def test_what_was_put_in_by_hand_stays(home: Path) -> None:
    file = home / "config.json"
    arguments = ("claude-desktop", "--write", "--file", file)
    configured(*arguments)
    made = json.loads(file.read_text("utf-8"))
    entry = made["mcpServers"]["calls"]
    entry["env"]["TWILIO_API_SECRET"] = SECRET
    entry |= {"disabled": False, "command": "elsewhere"}
    file.write_text(json.dumps(made), "utf-8")
    report = json.loads(configured(*arguments, "--json").stdout)
    assert SECRET not in json.dumps(report)
    assert report["changed"] is True
    assert report["by_hand"] == ["TWILIO_ACCOUNT_SID", "TWILIO_API_KEY"]
    entry = entry_of("claude-desktop", file.read_text("utf-8"))
    assert entry["env"]["TWILIO_API_SECRET"] == SECRET
    assert (entry["disabled"], entry["command"]) == (False, launch_command().command)


def test_everything_else_in_the_file_stays_and_the_old_one_is_kept(home: Path) -> None:
    file = home / "settings.json"
    text = '{\r\n\t"theme": "\u00e9",\r\n\t"context_servers": {"other": {}}\r\n}\r\n'
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    file.chmod(0o640)
    link = home / "link.json"
    link.symlink_to(file)
    before = file.read_bytes()
    configured("zed", "--sandbox", "--write", "--file", link)
    backup = home / "settings.json.bak"
    assert backup.read_bytes() == before
    assert link.is_symlink()
    assert {f.stat().st_mode & 0o777 for f in (file, backup)} == {0o640}
    after = file.read_bytes().decode()
    assert after.startswith('\ufeff{\r\n\t"theme": "\u00e9",\r\n\t"context_servers": {')
    assert "\n" not in after.replace("\r\n", "")
    assert [*json.loads(after[1:])["context_servers"]] == ["other", "calls"]
    configured("zed", "--write", "--file", link)
    assert (home / "settings.json.bak2").exists()
    assert backup.read_bytes() == before


def test_what_vs_code_asks_for_already_is_not_asked_for_twice(home: Path) -> None:
    file = home / "mcp.json"
    theirs = {"id": "calls-twilio-api-key", "type": "promptString"}
    file.write_text(json.dumps({"inputs": [{"id": "other"}, theirs]}), "utf-8")
    configured("vscode", "--write", "--file", file)
    inputs = json.loads(file.read_text("utf-8"))["inputs"]
    assert inputs[:2] == [{"id": "other"}, theirs]
    ours = [f"calls-twilio-{name}" for name in ("api-key", "account-sid", "api-secret")]
    assert [each["id"] for each in inputs] == ["other", *ours]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('// mine\n{"servers": {}}', "is not JSON without comments (line 1"),
        ('{"servers": {},}', "is not JSON without comments (line 1"),
        ("{", "is not JSON without comments (line 1"),
        ("[" * 100_000, "too deep"),
        ("[]", "is not a JSON object"),
        ('{"servers": 1}', "something else than an object as servers"),
        ('{"inputs": 1}', "something else than an array as inputs"),
        ('{"a": 1, "a": 2}', "has a member twice"),
        ('{"a": 1e400}', "not JSON compliant"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_a_file_that_a_rewrite_would_harm_is_left_alone_and_the_entry_is_shown(
    text: str | bytes, reason: str, home: Path
) -> None:
    file = home / "mcp.json"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    before = file.read_bytes()
    told = configured("vscode", "--write", "--file", file, status=2)
    assert entry_of("vscode", told.stdout)["args"] == ["serve"]
    assert told.stderr.startswith(f"calls-mcp: {file}: ")
    assert reason in told.stderr
    assert told.stderr.endswith("; put the entry in by hand.\n")
    assert told.stderr.count("\n") == 1
    assert [*home.iterdir()] == [file]
    assert file.read_bytes() == before


def command(home: Path, name: str, script: str) -> None:
    """A client's own command: a shell script."""
    program = home / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    program.chmod(0o700)


@pytest.mark.process
@pytest.mark.parametrize(
    ("client", "name", "arguments"),
    [
        ("claude-code", "claude", ["mcp", "add-json", "--scope", "project", "calls"]),
        ("vscode", "code", ["--add-mcp"]),
    ],
)
def test_a_client_with_a_command_of_its_own_adds_the_server_itself(
    client: str, name: str, arguments: list[str], home: Path
) -> None:
    file = CLIENTS[client].file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{} // mine", "utf-8")
    command(home, name, f"printf '%s\\n' \"$@\" > '{home}/asked'; echo '// \"calls\"' >> '{file}'")
    assert f"{file} was written." in configured(client, "--write").stderr
    *asked, added = (home / "asked").read_text("utf-8").splitlines()
    assert asked == arguments
    shown = json.loads(configured(client).stdout)
    made = shown[CLIENTS[client].key]["calls"]
    inputs = {"name": "calls", "inputs": shown["inputs"]} if client == "vscode" else {}
    assert json.loads(added) == {**inputs, **made}
    configured(client, "--write", status=2)  # now it is there, among comments


@pytest.mark.process
@pytest.mark.parametrize("script", ["exit 1", "exit 0"])
def test_a_command_that_fails_or_writes_elsewhere_is_not_relied_on(home: Path, script: str) -> None:
    command(home, "claude", script)
    configured("claude-code", "--sandbox", "--write")
    assert entry_of("claude-code", (home / ".mcp.json").read_text("utf-8"))["command"]


@pytest.mark.parametrize(
    "mode",
    [None, pytest.param(0o500, marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may"))],
)
def test_a_folder_that_cannot_be_written_to_is_named(home: Path, mode: int | None) -> None:
    folder = home / "closed"
    folder.touch() if mode is None else folder.mkdir(mode=mode)
    told = configured("cursor", "--write", "--file", folder / "mcp.json", status=2)
    assert "can't be written" in told.stderr


@pytest.mark.process
@pytest.mark.anyio
async def test_what_it_writes_starts_this_server(home: Path) -> None:
    file = home / "mcp.json"
    configured("inspector", "--sandbox", "--write", "--file", file)
    entry = entry_of("inspector", file.read_text("utf-8"))
    server = StdioServerParameters(command=entry["command"], args=entry["args"])
    async with Client(server) as client:
        assert len((await client.list_tools()).tools) == 5


@pytest.fixture(params=["uvx", "pipx", "pipx of old"])
def for_once(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, ...]:
    """Run by one of these, from what it keeps for a while: the command to do so again."""
    places = {"uvx": "uv/archive-v0", "pipx": ".cache/pipx", "pipx of old": "pipx/.cache"}
    place = tmp_path / places[request.param]
    place.mkdir(parents=True)
    if request.param == "pipx":
        (place / "CACHEDIR.TAG").touch()
    monkeypatch.setattr(sys, "prefix", str(place / "abc"))
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return ("uvx", "--from") if request.param == "uvx" else ("pipx", "run", "--spec")


def came_from(monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None) -> None:
    class Installed:
        @staticmethod
        def read_text(name: str) -> str | None:
            return json.dumps(origin) if origin and name == "direct_url.json" else None

    monkeypatch.setattr(module, "distribution", {"calls-mcp": Installed}.__getitem__)
    monkeypatch.setattr(module, "find_spec", {"redis": 1}.get)


def test_what_was_run_for_once_from_an_index_is_named_with_its_version(
    for_once: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    came_from(monkeypatch, None)
    told = configured("cursor", "--sandbox")
    made = entry_of("cursor", told.stdout)
    source = f"calls-mcp[redis]=={__version__}"
    started = (*for_once, source, "calls-mcp", "serve", "--sandbox")
    assert (made["command"], *made["args"]) == started
    assert f"{source} is fetched by its name" in told.stderr
    report = json.loads(configured("cursor", "--sandbox", "--json").stdout)
    assert "by its name" in report["note"]


def test_what_was_run_for_once_from_a_file_is_started_from_that_file_as_long_as_it_is_there(
    for_once: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "a b.whl"
    wheel.touch()
    came_from(monkeypatch, {"url": wheel.as_uri(), "archive_info": {}})
    told = configured("cursor", "--sandbox")
    made = entry_of("cursor", told.stdout)
    source = f"calls-mcp[redis] @ {wheel.as_uri()}"
    assert (made["command"], *made["args"][:-2]) == (*for_once, source, "calls-mcp")
    assert f"It is started from {wheel}, which must stay there." in told.stderr
    wheel.unlink()
    assert "can't be found again" in configured("cursor", status=2).stderr


@pytest.mark.usefixtures("for_once")
def test_what_was_run_for_once_from_elsewhere_is_named_by_its_url_unless_that_has_a_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = "0" * 40
    vcs = {"vcs": "git", "commit_id": commit}
    came_from(monkeypatch, {"url": "https://example.com/calls", "vcs_info": vcs})
    assert f"calls-mcp[redis] @ git+https://example.com/calls@{commit}" in launch_command().args
    came_from(monkeypatch, {"url": f"https://u:{SECRET}@example.com/x.whl", "archive_info": {}})
    with pytest.raises(ConfigurationError) as refused:
        launch_command()
    assert SECRET not in str(refused.value)


def test_what_is_installed_is_started_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Path(launch_command().command).is_absolute()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "pipx" / "venvs" / "calls-mcp"))
    monkeypatch.setattr(sysconfig, "get_path", {"scripts": str(tmp_path)}.get)
    assert launch_command().args == ("-m", "calls_mcp")
    (tmp_path / "calls-mcp").touch()
    assert launch_command() == Launch(str(tmp_path / "calls-mcp"))


@pytest.mark.parametrize("name", ["", " ", "a}b", "a b", "a.b", "ä", "a" * 41, "a\n"])
def test_a_name_that_not_every_client_takes_is_refused(name: str) -> None:
    assert "--name must be" in configured("vscode", "--name", name, status=2).stderr


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a loop": lambda file: file.symlink_to(file),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda file: file.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_left_alone(kind: str, home: Path) -> None:
    file = home / "mcp.json"
    SPECIAL[kind](file)
    before = file.lstat()
    with pytest.MonkeyPatch.context() as patch:  # lest a slip replaces a device of this machine's
        patch.setattr("calls_mcp.cli.clients.config_file.replace_file", pytest.fail)
        told = configured("cursor", "--write", "--file", file, status=2).stderr
    assert told.startswith("calls-mcp: ")
    assert told.count("\n") == 1
    assert str(file) in told or "/dev/null" in told
    assert (file.lstat().st_mode, file.lstat().st_ino) == (before.st_mode, before.st_ino)


@pytest.mark.parametrize("client", ["claude-code", "cursor"])
def test_a_working_folder_that_is_gone_is_told_if_it_is_needed(
    client: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    needed = client == "claude-code"
    told = configured(client, status=2 if needed else 0)
    assert ("is gone" in told.stderr) is needed
