"""The MCP bundle's manifest satisfies its published schema and works in hosts."""

import json
import re
import shutil
import stat
import sys
from pathlib import Path
from typing import Any, cast
from zipfile import ZipFile

import pytest

from calls_mcp.server.prompts import load_prompts
from calls_mcp.settings import Settings
from release.bundle import FILE, MANIFEST_VERSION
from tests.generate import definitions
from tests.harness import open_harness
from tests.release.builds import Built, faults, run
from tests.release.host import configure

Manifest = dict[str, Any]
TOOLS = Path(sys.prefix) / "mcpb" / "node_modules" / "@anthropic-ai" / "mcpb"
NODE = shutil.which("node")
needs_tools = pytest.mark.skipif(
    not TOOLS.is_dir() or NODE is None,
    reason="@anthropic-ai/mcpb is not there: npm install --prefix .venv/mcpb @anthropic-ai/mcpb",
)


@pytest.fixture
def manifest() -> Manifest:
    return cast("Manifest", json.loads(FILE.read_text("utf-8")))


@needs_tools
def test_it_satisfies_the_published_schema(manifest: Manifest) -> None:
    assert faults(published(), manifest) == []


@needs_tools
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("manifest_version", "0.3"),
        ("version", None),
        ("author", "somebody"),
        ("server", {"type": "uv", "entry_point": "server/main.py"}),
        ("user_config", {"api_key": {"type": "secret", "title": "Key", "description": "A key"}}),
        ("stray", True),
    ],
)
def test_the_schema_rejects_faults(manifest: Manifest, key: str, value: object) -> None:
    assert faults(published(), manifest | {key: value})


def published() -> object:
    file = TOOLS / "schemas" / f"mcpb-manifest-v{MANIFEST_VERSION}.schema.json"
    return json.loads(file.read_text("utf-8"))


@pytest.mark.process
@needs_tools
def test_the_official_bundle_tools_accept_the_bundle(built: Built, tmp_path: Path) -> None:
    tool = [str(NODE), str(TOOLS / "dist" / "cli" / "cli.js")]
    assert "passes" in run([*tool, "validate", str(FILE)], tmp_path)
    run([*tool, "unpack", str(built.bundle), str(tmp_path / "unpacked")], tmp_path)
    assert (tmp_path / "unpacked" / "manifest.json").read_bytes() == FILE.read_bytes()


@pytest.mark.process
@needs_tools
def test_the_official_host_starts_it_like_ours(unpacked: Path) -> None:
    answers = {"account_sid": "AC0", "api_key": "SK0", "api_secret": "secret"}
    script = f"""
        import {{ getMcpConfigForManifest }} from {json.dumps(str(TOOLS / "dist" / "index.js"))};
        import {{ readFileSync }} from "node:fs";
        const manifest = JSON.parse(readFileSync("manifest.json", "utf8"));
        console.log(JSON.stringify(await getMcpConfigForManifest({{
            manifest, extensionPath: process.cwd(), systemDirs: {{}}, pathSeparator: "/",
            userConfig: {json.dumps(answers)},
        }})));
    """
    told = run([str(NODE), "--input-type=module", "--eval", script], unpacked)
    config = configure(unpacked, answers)
    assert json.loads(told) == config
    assert "${" not in told
    assert config["env"]["TWILIO_API_SECRET"] == "secret"
    assert config["env"]["TWILIO_AUTH_TOKEN"] == ""


def test_tools_and_prompts_are_the_servers(manifest: Manifest) -> None:
    served = {name: definition["description"] for name, definition in definitions().items()}
    assert {tool["name"]: tool["description"] for tool in manifest["tools"]} == served
    assert "tools_generated" not in manifest


@pytest.mark.anyio
async def test_a_prompt_equals_the_servers(manifest: Manifest) -> None:
    async with open_harness() as harness, harness.connect() as agent:
        listed = (await agent.client.list_prompts()).prompts
        assert [prompt["name"] for prompt in manifest["prompts"]] == [each.name for each in listed]
        for prompt, own in zip(manifest["prompts"], listed, strict=True):
            names = [argument.name for argument in own.arguments or []]
            assert prompt["arguments"] == names
            choices = {each.name: each.choices for each in load_prompts()[own.name].arguments}
            given = {name: (choices[name] or (f"<{name}>",))[0] for name in names}
            (message,) = (await agent.client.get_prompt(own.name, given)).messages
            filled = re.sub(
                r"\$\{arguments\.(\w+)}", lambda found, given=given: given[found[1]], prompt["text"]
            )
            assert getattr(message.content, "text", None) == filled


def test_each_user_input_sets_one_setting(
    manifest: Manifest,
) -> None:
    config = manifest["server"]["mcp_config"]
    assert config["env"].keys() <= Settings.variables().keys()
    placeholders = [
        re.fullmatch(r"\$\{user_config\.(\w+)}", each) for each in config["env"].values()
    ]
    assert [found[1] for found in placeholders if found] == [*manifest["user_config"]]
    assert "user_config" not in json.dumps(config["args"])  # arguments can be seen by everybody


def test_secrets_are_marked_and_optional_inputs_are_empty(manifest: Manifest) -> None:
    asked = manifest["user_config"]
    assert {key for key, each in asked.items() if each.get("sensitive")} == {
        *("api_secret", "auth_token")
    }
    assert [key for key, each in asked.items() if each["required"]] == ["account_sid"]
    for key, each in asked.items():
        # Hosts use the default, or leave the placeholder unchanged.
        assert "default" in each or each["required"], key
        assert each.get("default") in (None, "", False), key


@pytest.mark.process
def test_the_bundle_has_a_manifest_the_package_and_an_entry_point(
    built: Built, unpacked: Path, manifest: Manifest
) -> None:
    assert json.loads((unpacked / "manifest.json").read_text("utf-8")) == manifest
    assert {path.name for path in unpacked.iterdir()} == {
        *("LICENSE", "manifest.json", "pyproject.toml", "server")
    }
    assert (unpacked / manifest["server"]["entry_point"]).is_file()
    with ZipFile(built.wheel) as wheel, ZipFile(built.bundle) as bundle:
        package = {name for name in wheel.namelist() if name.startswith("calls_mcp/")}
        held = {name for name in bundle.namelist() if name.startswith("server/calls_mcp/")}
        assert held == {f"server/{name}" for name in package}
        for entry in bundle.infolist():
            assert stat.S_IMODE(entry.external_attr >> 16) == 0o644
            assert not entry.filename.startswith("/")
            assert ".." not in entry.filename


@pytest.mark.process
def test_the_entry_point_starts_the_package_in_the_bundle(unpacked: Path) -> None:
    program = unpacked / "server" / "main.py"
    package = unpacked / "server" / "calls_mcp"
    version = package / "__init__.py"
    text = version.read_text("utf-8").replace('__version__ = "', '__version__ = "9!')
    version.write_text(text, "utf-8")
    told = run([sys.executable, str(program), "--version"], unpacked)
    assert told.startswith("calls-mcp 9!")
