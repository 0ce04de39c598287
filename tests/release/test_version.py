"""The version is defined in calls_mcp/__init__.py, and everything else uses it."""

import re
import tomllib

import pytest
from packaging.version import Version

from calls_mcp import __version__
from release import bundle, registry
from release.project import ROOT
from tests.generate import DEPLOY, NUMBER, deploy_files, release_files
from tests.harness import open_harness

CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
SECTIONS = re.findall(r"^## (\S+)", CHANGELOG, re.MULTILINE)


def test_the_generated_files_are_up_to_date() -> None:
    stale = [
        path.name
        for path, text in (release_files() | deploy_files()).items()
        if path.read_text("utf-8") != text
    ]
    assert not stale, "run python -m tests.generate"


def test_pyproject_has_no_version_of_its_own() -> None:
    described = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "version" not in described["project"]
    assert described["tool"]["hatch"]["version"]["path"] == "calls_mcp/__init__.py"


def test_manifest_and_registry_entry_have_this_version() -> None:
    entry = registry.server_json()
    assert bundle.manifest()["version"] == entry["version"] == __version__
    packages = entry["packages"]
    assert isinstance(packages, list)
    assert all(isinstance(each, dict) and each["version"] == __version__ for each in packages)


def test_deployment_files_name_the_image_of_this_version() -> None:
    texts = {file.name: file.read_text("utf-8") for file in DEPLOY.iterdir() if file.is_file()}
    images = {
        name: re.findall(rf"(?:image:|-t) calls-mcp(?::({NUMBER}))?\s", text)
        for name, text in texts.items()
    }
    named = {name for name, found in images.items() if found}
    assert named == {"Dockerfile", "compose.yaml", "kubernetes.yaml"}
    assert all({*found} <= {__version__} for found in images.values())


def test_the_changelog_has_this_version_or_unreleased_changes() -> None:
    first, *released = SECTIONS
    assert first == "Unreleased"
    numbers = [*map(Version, released)]
    assert numbers == sorted(numbers, reverse=True)
    if __version__ in released:
        assert released[0] == __version__
    else:
        waiting = CHANGELOG.split("## Unreleased")[1].split("\n## ")[0]
        assert "\n- " in waiting
        assert all(number < Version(__version__) for number in numbers)


@pytest.mark.anyio
async def test_a_client_gets_this_version() -> None:
    async with open_harness() as harness, harness.connect("legacy") as agent:
        told = agent.client.server_info
        assert told
        assert told.version == __version__
