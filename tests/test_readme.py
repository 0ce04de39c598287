"""The README is true, and its generated parts are fresh."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from calls_mcp.emulator import DEFAULT_ACCOUNT, SCRIPTS
from calls_mcp.prompts import load_prompts
from calls_mcp.settings import load_settings
from tests.readme import README, readme_text

TEXT = README.read_text("utf-8")
BLOCKS = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)


def test_the_generated_parts_are_fresh() -> None:
    assert readme_text() == TEXT, "run python -m tests.generate"


@pytest.mark.parametrize("block", BLOCKS)
def test_each_client_configuration_is_json_that_starts_the_server(block: str) -> None:
    server = json.loads(block)["mcpServers"]["calls"]
    assert server["command"].endswith("calls-mcp")
    if "env" in server:
        settings = {name.lower(): value for name, value in server["env"].items()}
        assert load_settings(settings).access().account_sid == DEFAULT_ACCOUNT.sid
    else:
        assert server["args"] == ["serve", "--sandbox"]


def test_every_scripted_number_and_prompt_is_told() -> None:
    assert all(f"`{number}`" in TEXT for number in SCRIPTS)
    assert all(f"`{name}`" in TEXT for name in load_prompts())


def test_the_commands_install_what_the_project_declares() -> None:
    project = tomllib.loads((README.parent / "pyproject.toml").read_text("utf-8"))["project"]
    assert "calls-mcp" in project["scripts"]
    assert "'.[dev]'" in TEXT
    assert "dev" in project["optional-dependencies"]


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert links
    assert all((Path(README.parent) / link).exists() for link in links)
