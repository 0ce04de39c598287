"""The MCP registry entry satisfies the published schema and the registry's other rules."""

import json
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import pytest

from calls_mcp.cli.main import main
from calls_mcp.settings import Settings
from release.registry import FILE, SCHEMA, server_json
from tests.release.builds import faults

Entry = dict[str, Any]


@pytest.fixture
def entry() -> Entry:
    return cast("Entry", json.loads(FILE.read_text("utf-8")))


@pytest.fixture(scope="module")
def schema() -> object:
    """The published schema, from a package with a copy of it."""
    published = files("skillsaw.schemas.mcp_registry.v2025_12_11") / "server.schema.json"
    content = json.loads(published.read_text("utf-8"))
    assert content["$id"] == SCHEMA
    return content


def test_it_satisfies_the_published_schema(schema: object, entry: Entry) -> None:
    assert faults(schema, entry) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "calls-mcp"),
        ("description", "x" * 101),
        ("version", 1),
        ("packages", [{"registryType": "pypi", "identifier": "calls-mcp"}]),
        ("packages", [{"registryType": "pypi", "identifier": "x", "transport": {"type": "pipe"}}]),
    ],
)
def test_the_schema_rejects_faults(schema: object, entry: Entry, key: str, value: object) -> None:
    assert faults(schema, entry | {key: value})


@pytest.mark.process
def test_a_linter_of_the_registrys_other_rules_finds_nothing(tmp_path: Path) -> None:
    copy = tmp_path / FILE.name
    shutil.copy(FILE, copy)
    assert lint(copy).returncode == 0
    ranged = server_json() | {"version": "^1.2.3"}
    copy.write_text(json.dumps(ranged), "utf-8")
    assert lint(copy).returncode != 0


def lint(file: Path) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "skillsaw", "lint", str(file)]
    return subprocess.run(command, cwd=file.parent, capture_output=True, check=False)  # noqa: S603


def test_every_setting_is_listed_and_every_secret_is_marked(entry: Entry) -> None:
    local, served = (package["environmentVariables"] for package in entry["packages"])
    assert [each["name"] for each in served] == [*Settings.variables()]
    assert {each["name"] for each in local} < {each["name"] for each in served}
    for given in (local, served):
        secret = {each["name"] for each in given if each.get("isSecret")}
        assert secret == {
            *("TWILIO_AUTH_TOKEN", "TWILIO_API_SECRET"),
            *("CALLS_MCP_SECRET_KEYS", "CALLS_MCP_STATE_URL"),
            *("CALLS_MCP_APPROVALS_WEBHOOK", "CALLS_MCP_APPROVALS_WEBHOOK_SECRET"),
        }
        assert [each["name"] for each in given if each.get("isRequired")] == ["TWILIO_ACCOUNT_SID"]


def test_the_stdio_configuration_has_no_http_settings(entry: Entry) -> None:
    local = {each["name"] for each in entry["packages"][0]["environmentVariables"]}
    words = ("HTTP", "OAUTH", "ORIGINS", "HOSTS", "PRINCIPALS", "CALLS_MCP_AUTH")
    assert not [name for name in local if any(word in name for word in words)]
    assert "CALLS_MCP_POLICY" in local


def test_the_defaults_are_valid_settings(entry: Entry) -> None:
    for package in entry["packages"]:
        given = {
            each["name"]: each["default"]
            for each in package["environmentVariables"]
            if "default" in each
        }
        told = Settings.model_validate(given).model_dump()
        assert told == Settings.model_validate({}).model_dump()


def test_the_http_arguments_match_the_url(entry: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    served = entry["packages"][1]
    given = [(each.get("name"), each["value"]) for each in served["packageArguments"]]
    command = [word for pair in given for word in pair if word]
    assert main(command) == 2
    assert "TWILIO_ACCOUNT_SID" in capsys.readouterr().err  # all that is wrong with it
    assert served["transport"]["url"] == f"http://127.0.0.1:{dict(given)['--port']}/mcp"


def test_only_the_schemas_host_and_loopback_are_named(entry: Entry) -> None:
    assert "registryBaseUrl" not in FILE.read_text("utf-8")
    assert entry.keys() == {*("$schema", "name", "title", "description", "version", "packages")}
