"""The image's packages are locked by version and hash."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "config/deploy"
LOCKS = ("requirements.txt", "requirements-build.txt")
EXTRAS = ("otel", "redis")
ENVIRONMENT = {
    "python_version": "3.13",
    "python_full_version": "3.13.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


@pytest.mark.requirement("43")
@pytest.mark.parametrize("name", LOCKS)
def test_each_dependency_has_one_version_and_its_hashes(name: str) -> None:
    entries = _entries(DEPLOY / name)
    assert entries
    for entry in entries:
        version, *options = entry.split(" --")
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.+]*", version.strip())
        assert options
        assert all(re.fullmatch(r"hash=sha256:[0-9a-f]{64}", option.strip()) for option in options)


@pytest.mark.requirement("43")
@pytest.mark.parametrize("name", LOCKS)
def test_locks_name_no_package_index(name: str) -> None:
    text = (DEPLOY / name).read_text("utf-8")
    assert not re.search(r"://|--(?:extra-)?index-url|--find-links|--trusted-host| @ ", text)


@pytest.mark.requirement("43")
def test_locks_satisfy_the_declared_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    missing = [*_unmet(wanted, _locked("requirements.txt"))]
    assert not missing, f"lock them again, as config/deploy/requirements.txt says: {missing}"


@pytest.mark.requirement("43")
def test_the_build_backend_of_the_image_is_locked() -> None:
    system = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]
    assert [*_unmet(system["requires"], _locked("requirements-build.txt"))] == []


@pytest.mark.requirement("43")
def test_transitive_dependencies_are_locked() -> None:
    locked, compared = _locked("requirements.txt"), 0
    for name, version in locked.items():
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        if Version(installed.version) == version:
            compared += 1
            assert [*_unmet(installed.requires or [], locked)] == [], name
    assert compared or not _locked("requirements.txt")


@pytest.mark.requirement("43")
def test_the_image_installs_only_locked_packages() -> None:
    text = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    commands = re.findall(r"pip (?:install|wheel|download) [^&\n]+", text)
    assert len(commands) == 4
    for command in commands:
        is_locked = "--require-hashes" in command and "--only-binary :all:" in command
        assert is_locked or ("--no-index" in command and "--no-deps" in command), command
    assert "curl" not in text
    assert "wget" not in text


def _entries(file: Path) -> list[str]:
    text = file.read_text("utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _locked(name: str) -> Mapping[str, Version]:
    pairs = (entry.split()[0].split("==") for entry in _entries(DEPLOY / name))
    return {canonicalize_name(package): Version(version) for package, version in pairs}


def _unmet(requirements: list[str], locked: Mapping[str, Version]) -> Iterator[str]:
    """Return the requirements that the lock does not satisfy on the image's platform."""
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is not None and not marker.evaluate({**ENVIRONMENT, "extra": ""}):
            continue
        version = locked.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            yield str(requirement)
