"""`calls-mcp client-config` writes configurations that work and have no secrets."""

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
from calls_mcp.cli.client_files import CLIENTS
from calls_mcp.cli.launch_command import Launch, launch_command
from calls_mcp.errors import ConfigurationError
from tests.cli.test_main import run
from tests.docs.pages import PAGES, ROOT, Block, blocks
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
    monkeypatch.setenv("CALLS_MCP_BROWSER_ORIGINS", "https://app.example.com")


def configured(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command, which must end with this status."""
    told = run("client-config", *map(str, arguments))
    assert told.returncode == status, told.stderr
    return told


def entry_of(client: str, text: str, name: str = "calls") -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(text)[CLIENTS[client].key][name])


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("client", CLIENTS)
def test_the_configuration_has_the_settings_of_this_environment_but_no_secrets(
    client: str, home: Path
) -> None:
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
def test_secrets_are_references_or_placeholders(client: str, secret: str) -> None:
    told = configured(client)
    assert entry_of(client, told.stdout)["env"]["TWILIO_API_SECRET"] == secret
    by_hand = "replace each placeholder: TWILIO_API_SECRET," in told.stderr
    assert by_hand == secret.startswith("put")


@pytest.mark.usefixtures("credentials")
def test_vs_code_prompts_for_each_secret() -> None:
    made = json.loads(configured("vscode", "--name", "phone").stdout)
    asked = {item["id"]: item for item in made["inputs"]}
    wanted = [v for v in made["servers"]["phone"]["env"].values() if v.startswith("${input:")]
    assert sorted(wanted) == sorted(f"${{input:{identifier}}}" for identifier in asked)
    assert all(item["type"] == "promptString" and item["password"] for item in asked.values())


def test_without_credentials_the_configuration_has_those_of_an_api_key() -> None:
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
def test_each_client_has_its_file_on_each_platform(
    client: str, platform: str, where: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert CLIENTS[client].file() == home / where


@pytest.mark.parametrize("client", CLIENTS)
def test_writing_the_same_entry_again_changes_nothing(client: str, home: Path) -> None:
    file = CLIENTS[client].file()
    assert f"Updated {file}." in configured(client, "--sandbox", "--write").stderr
    before = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"{file} is up to date." in configured(client, "--sandbox", "--write").stderr
    assert file.read_bytes() == before
    assert [found for found in home.rglob("*") if found.is_file()] == [file]


def test_filled_in_values_stay(home: Path) -> None:
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


def test_the_rest_of_the_file_stays_and_is_backed_up(home: Path) -> None:
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
    assert after.startswith('{\r\n\t"theme": "\u00e9",\r\n\t"context_servers": {')
    assert "\n" not in after.replace("\r\n", "")
    assert [*json.loads(after)["context_servers"]] == ["other", "calls"]
    configured("zed", "--write", "--file", link)
    assert (home / "settings.json.bak2").exists()
    assert backup.read_bytes() == before


def test_existing_prompts_of_vs_code_are_not_duplicated(home: Path) -> None:
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
        ('// mine\n{"servers": {}}', "it is not plain JSON; comments are not supported (line 1"),
        ('{"servers": {},}', "it is not plain JSON; comments are not supported (line 1"),
        ("{", "it is not plain JSON; comments are not supported (line 1"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "it is not a JSON object"),
        ('{"servers": 1}', "servers is not an object"),
        ('{"inputs": 1}', "inputs is not an array"),
        ('{"a": 1, "a": 2}', "a name occurs twice in an object"),
        ('{"a": 1e400}', "it has a number that is not JSON"),
        (b"\xff", "it is not UTF-8"),
    ],
)
def test_a_file_that_rewriting_would_damage_is_not_changed_and_the_entry_is_printed(
    text: str | bytes, reason: str, home: Path
) -> None:
    file = home / "mcp.json"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    before = file.read_bytes()
    told = configured("vscode", "--write", "--file", file, status=2)
    assert entry_of("vscode", told.stdout)["args"] == ["serve"]
    assert told.stderr.startswith(f"calls-mcp: {file} was not changed, because ")
    assert reason in told.stderr
    assert told.stderr.endswith(". Add the entry by hand.\n")
    assert told.stderr.count("\n") == 1
    assert [*home.iterdir()] == [file]
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "mode",
    [None, pytest.param(0o500, marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may"))],
)
def test_an_unwritable_directory_is_named(home: Path, mode: int | None) -> None:
    folder = home / "closed"
    folder.touch() if mode is None else folder.mkdir(mode=mode)
    told = configured("cursor", "--write", "--file", folder / "mcp.json", status=2)
    assert "can't be written" in told.stderr


@pytest.mark.process
@pytest.mark.anyio
async def test_the_written_configuration_starts_this_server(home: Path) -> None:
    file = home / "mcp.json"
    configured("inspector", "--sandbox", "--write", "--file", file)
    entry = entry_of("inspector", file.read_text("utf-8"))
    server = StdioServerParameters(command=entry["command"], args=entry["args"])
    async with Client(server) as client:
        assert len((await client.list_tools()).tools) == 5


@pytest.fixture(params=["uvx", "pipx", "pipx of old"])
def temporary_run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, ...]:
    """Run from an environment of uvx or pipx. Return the command that repeats the run."""
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


def test_a_temporary_run_from_an_index_names_the_version(
    temporary_run: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    came_from(monkeypatch, None)
    told = configured("cursor", "--sandbox")
    made = entry_of("cursor", told.stdout)
    source = f"calls-mcp[redis]=={__version__}"
    started = (*temporary_run, source, "calls-mcp", "serve", "--sandbox")
    assert (made["command"], *made["args"]) == started
    assert f"The client will fetch {source} from this machine's package index" in told.stderr
    report = json.loads(configured("cursor", "--sandbox", "--json").stdout)
    assert "package index" in report["note"]


def test_a_temporary_run_from_a_file_needs_that_file(
    temporary_run: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "a b.whl"
    wheel.touch()
    came_from(monkeypatch, {"url": wheel.as_uri(), "archive_info": {}})
    told = configured("cursor", "--sandbox")
    made = entry_of("cursor", told.stdout)
    source = f"calls-mcp[redis] @ {wheel.as_uri()}"
    assert (made["command"], *made["args"][:-2]) == (*temporary_run, source, "calls-mcp")
    assert f"The client will start it from {wheel}, so do not move it." in told.stderr
    wheel.unlink()
    assert (
        "The package that you ran is gone, or its URL contains a password."
        in configured("cursor", status=2).stderr
    )


@pytest.mark.usefixtures("temporary_run")
def test_a_temporary_run_from_a_url_names_the_url_unless_it_has_a_secret(
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


def test_an_installed_command_has_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Path(launch_command().command).is_absolute()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "pipx" / "venvs" / "calls-mcp"))
    monkeypatch.setattr(sysconfig, "get_path", {"scripts": str(tmp_path)}.get)
    assert launch_command().args == ("-m", "calls_mcp")
    (tmp_path / "calls-mcp").touch()
    assert launch_command() == Launch(str(tmp_path / "calls-mcp"))


@pytest.mark.parametrize("name", ["", " ", "a}b", "a b", "a.b", "ä", "a" * 41, "a\n"])
def test_a_name_that_some_client_does_not_accept_is_refused(name: str) -> None:
    assert "--name must be" in configured("vscode", "--name", name, status=2).stderr


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a loop": lambda file: file.symlink_to(file),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda file: file.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_special_file_is_not_changed(kind: str, home: Path) -> None:
    file = home / "mcp.json"
    SPECIAL[kind](file)
    before = file.lstat()
    with pytest.MonkeyPatch.context() as patch:  # in case of a bug, this machine keeps its device
        patch.setattr("calls_mcp.cli.client_files.replace_file", pytest.fail)
        told = configured("cursor", "--write", "--file", file, status=2).stderr
    assert told.startswith("calls-mcp: ")
    assert told.count("\n") == 1
    assert str(file) in told or "/dev/null" in told
    assert (file.lstat().st_mode, file.lstat().st_ino) == (before.st_mode, before.st_ino)


@pytest.mark.parametrize("client", ["claude-code", "cursor"])
def test_a_deleted_working_directory_is_reported_only_if_needed(
    client: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    needed = client == "claude-code"
    told = configured(client, status=2 if needed else 0)
    assert ("no longer exists" in told.stderr) is needed


URL = "https://mcp.example.com/mcp"
REMOTE = ("--url", URL, "--token-env", "CALLS_TOKEN")
TOKEN = "put your CALLS_TOKEN here"


def bearer(value: str, **members: str) -> dict[str, Any]:
    return {**members, "headers": {"Authorization": f"Bearer {value}"}}


ENTRIES: dict[str, dict[str, Any]] = {
    "claude-desktop": {
        "command": "npx",
        "args": ["-y", "mcp-remote", URL, "--header", "Authorization:${AUTHORIZATION}"],
        "env": {"AUTHORIZATION": f"Bearer {TOKEN}"},
    },
    "claude-code": bearer("${CALLS_TOKEN}", type="http", url=URL),
    "cursor": bearer("${env:CALLS_TOKEN}", url=URL),
    "vscode": bearer("${input:calls-calls-token}", type="http", url=URL),
    "windsurf": bearer("${env:CALLS_TOKEN}", serverUrl=URL),
    "zed": bearer(TOKEN, url=URL),
    "inspector": bearer(TOKEN, type="streamable-http", url=URL),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_over_http_is_configured_in_the_clients_format(client: str) -> None:
    made = configured(client, *REMOTE)
    assert entry_of(client, made.stdout) == ENTRIES[client]
    assert ("replace each placeholder: CALLS_TOKEN" in made.stderr) == (TOKEN in made.stdout)
    assert ("Node.js" in made.stderr) == (client in ("claude-desktop", "inspector"))


def test_vs_code_prompts_for_the_token() -> None:
    assert json.loads(configured("vscode", *REMOTE).stdout)["inputs"] == [
        {
            "type": "promptString",
            "id": "calls-calls-token",
            "description": "Access token of the server",
            "password": True,
        }
    ]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_over_http_needs_no_token_and_no_settings(
    client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS_MCP_TIMEOUT", "wrong")
    made = configured(client, "--url", "http://127.0.0.1:8080/mcp").stdout
    assert "http://127.0.0.1:8080/mcp" in made
    assert "Authorization" not in made
    assert ("--allow-http" in made) == (client == "claude-desktop")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_filled_in_token_stays(client: str, home: Path) -> None:
    file = home / "config.json"
    configured(client, *REMOTE, "--write", "--file", file)
    file.write_text(file.read_text("utf-8").replace(TOKEN, SECRET), "utf-8")
    ended = configured(client, *REMOTE, "--write", "--file", file)
    assert f"{file} is up to date." in ended.stderr
    assert "placeholder" not in ended.stderr


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("client", CLIENTS)
def test_an_entry_can_change_between_stdio_and_http(client: str, home: Path) -> None:
    file = home / "config.json"
    local = entry_of(client, configured(client).stdout)
    configured(client, "--write", "--file", file)
    configured(client, *REMOTE, "--write", "--file", file)
    assert entry_of(client, file.read_text("utf-8")) == ENTRIES[client]
    configured(client, "--write", "--file", file)
    assert entry_of(client, file.read_text("utf-8")) == local


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--url", "mcp.example.com"), "--url must be https://HOST/PATH"),
        (("--url", "http://mcp.example.com/mcp"), "--url must be https://HOST/PATH"),
        (("--url", f"https://user:{SECRET}@mcp.example.com"), "--url must be https://HOST/PATH"),
        (("--url", ""), "--url must be https://HOST/PATH"),
        (("--url", URL, "--token-env", f"calls_{SECRET}-1"), "--token-env must be the name"),
        (("--url", URL, "--token-env", "CALLS_MCP_TOKEN"), "--token-env must be the name"),
        (("--token-env", "CALLS_TOKEN"), "--token-env needs --url"),
        (("--url", URL, "--sandbox"), "--url can't be combined with --sandbox"),
    ],
)
def test_wrong_options_for_http_are_refused(arguments: tuple[str, ...], reason: str) -> None:
    ended = configured("cursor", *arguments, status=2)
    assert reason in ended.stderr
    assert SECRET not in ended.stderr


def files_in_the_docs() -> dict[str, list[str]]:
    """Return the files of each client on Linux, macOS and Windows, as the quickstart has them."""
    text = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `")]
    cells = [[cell.strip(" `") for cell in row] for row in rows if len(row) == 4]
    return {
        client: [linux, mac or linux, windows or linux] for client, linux, mac, windows in cells
    }


@pytest.mark.parametrize("client", CLIENTS)
def test_the_docs_name_the_files_that_the_command_writes(
    client: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = zip(("linux", "darwin", "win32"), files_in_the_docs()[client], strict=True)
    for platform, shown in places:
        monkeypatch.setattr(sys, "platform", platform)
        expanded = shown.replace("~", str(home)).replace("%APPDATA%", f"{home}/AppData/Roaming")
        assert CLIENTS[client].file() == home / expanded


CONFIGURATIONS = [
    (client, block, arguments)
    for page, arguments in (
        ("quickstart.md", ["--sandbox"]),
        ("deployment.md", ["--url", URL, "--token-env", "TOKEN"]),
    )
    for block in blocks(ROOT / "docs" / page)
    if block.language == "json"
    for client in block.name.split()
]


@pytest.mark.parametrize(
    ("client", "block", "arguments"),
    [pytest.param(*each, id=f"{each[1].place}-{each[0]}") for each in CONFIGURATIONS],
)
def test_the_docs_have_the_configurations_that_the_command_prints(
    client: str, block: Block, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Launch("/path/to/.venv/bin/calls-mcp")
    monkeypatch.setattr("calls_mcp.cli.client_config.launch_command", lambda: start)
    assert json.loads(configured(client, *arguments).stdout) == json.loads(block.text)


def test_the_docs_have_a_configuration_over_http_for_every_client() -> None:
    assert {client for client, _, arguments in CONFIGURATIONS if "--url" in arguments} == {*CLIENTS}


def test_the_docs_name_the_version_of_node_wherever_they_use_the_inspector() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        if "npx @modelcontextprotocol/inspector" in text:
            assert "Node.js 22.19" in text
