"""The packages are reproducible and have the right contents."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.metadata import Metadata
from readme_renderer import markdown
from trove_classifiers import classifiers

from release.project import ROOT, project, registry_name, version
from tests.release.builds import Built, build, build_wheel, copy_of_the_checkout, run

pytestmark = pytest.mark.process

READ_DATA_FILES = (
    "tests/docs/test_pages.py",
    "tests/http/test_deploy.py",
    "tests/release/test_locks.py",
    "tests/release/test_version.py",
    "tests/tools/test_catalog.py",
    "tests/tools/test_schema.py",
)


@pytest.fixture(scope="module")
def metadata(built: Built) -> Metadata:
    return Metadata.from_email(built.metadata(), validate=True)


def test_a_release_is_reproducible(built: Built, tmp_path: Path) -> None:
    copy = copy_of_the_checkout(tmp_path)
    again = build(tmp_path / "out", copy, 0o077, TZ="Asia/Kolkata", LC_ALL="C", PYTHONHASHSEED="7")
    for first, second in (
        (built.sdist, again.sdist),
        (built.wheel, again.wheel),
        (built.bundle, again.bundle),
    ):
        assert first.name == second.name
        assert first.read_bytes() == second.read_bytes()


def test_the_wheel_from_the_sdist_equals_the_wheel_from_the_checkout(
    built: Built, tmp_path: Path
) -> None:
    straight = build_wheel(tmp_path / "straight", ROOT)
    built.unpack(built.sdist, tmp_path)
    (unpacked,) = tmp_path.glob("calls_mcp-*")
    by_way_of_the_sdist = build_wheel(tmp_path / "by way of it", unpacked)
    assert built.wheel.read_bytes() == straight.read_bytes() == by_way_of_the_sdist.read_bytes()


def test_the_wheel_has_only_the_package_and_its_data(built: Built) -> None:
    with ZipFile(built.wheel) as archive:
        names = {each for each in archive.namelist() if ".dist-info/" not in each}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "calls_mcp").rglob("*.py")}
    data = {
        f"calls_mcp/{path.relative_to(ROOT).as_posix()}"
        for folder, pattern in (("config", "*.toml"), ("config", "*.html"), ("prompts", "*.md"))
        for path in (ROOT / folder).rglob(pattern)
    }
    pages = {
        path.relative_to(ROOT).as_posix()
        for folder in ("static", "templates")
        for path in (ROOT / "calls_mcp" / "console" / folder).iterdir()
    }
    storage = {
        path.relative_to(ROOT).as_posix()
        for folder in ("migrations", "scripts")
        for path in (ROOT / "calls_mcp" / "storage" / folder).iterdir()
    }
    assert names == code | data | pages | storage | {"calls_mcp/py.typed"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout: what is tracked is unknown")
def test_the_sdist_has_only_tracked_files(built: Built, tmp_path: Path) -> None:
    git = shutil.which("git")
    assert git
    tracked = subprocess.check_output([git, "ls-files"], cwd=ROOT, encoding="utf-8")  # noqa: S603
    built.unpack(built.sdist, tmp_path)
    (unpacked,) = tmp_path.iterdir()
    held = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert held == {*tracked.splitlines(), "PKG-INFO"}


def test_the_tests_run_in_the_unpacked_sdist(built: Built, tmp_path: Path) -> None:
    built.unpack(built.sdist, tmp_path)
    (unpacked,) = tmp_path.iterdir()
    pytest_there = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    assert " passed" in run([*pytest_there, *READ_DATA_FILES], unpacked)


def test_the_metadata_describe_the_project(metadata: Metadata) -> None:
    assert (metadata.name, str(metadata.version)) == (project()["name"], version)
    assert metadata.summary == project()["description"]
    assert metadata.license_expression == "MIT"
    assert metadata.license_files == ["LICENSE"]
    assert str(metadata.requires_python) == ">=3.11"
    assert {*(metadata.provides_extra or [])} == {"console", "dev", "otel", "redis"}
    assert {*(metadata.classifiers or [])} <= classifiers
    assert "Typing :: Typed" in (metadata.classifiers or [])
    assert not metadata.project_urls  # the project has no website


def test_the_description_renders_and_proves_the_ownership_of_the_registry_entry(
    metadata: Metadata,
) -> None:
    assert metadata.description_content_type == "text/markdown"
    text = metadata.description or ""
    rendered = markdown.render(text)
    assert rendered
    assert ">calls-mcp<" in rendered
    assert "<table>" in rendered
    assert f"mcp-name: {registry_name()} " in text


def test_the_wheels_command_starts(built: Built) -> None:
    with ZipFile(built.wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("/entry_points.txt"))
        points = archive.read(name).decode()
    assert points.split() == ["[console_scripts]", "calls-mcp", "=", "calls_mcp.__main__:main"]


def test_a_release_needs_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "old.whl").touch()
    with pytest.raises(AssertionError, match="is not empty"):
        build(tmp_path)
