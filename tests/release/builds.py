"""Builds of the release from this checkout or a copy of it, and their contents."""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from zipfile import ZipFile

from jsonschema import Draft7Validator, FormatChecker

from release.project import ROOT

# A release must not depend on these, so copies don't have them.
_LEFT = (
    ".git",
    ".venv",
    ".clients",
    ".coverage*",
    ".hypothesis",
    ".*_cache",
    "__pycache__",
    "dist",
)


@dataclass(frozen=True)
class Built:
    """A folder with a release."""

    folder: Path

    @property
    def wheel(self) -> Path:
        return self._one("*.whl")

    @property
    def sdist(self) -> Path:
        return self._one("*.tar.gz")

    @property
    def bundle(self) -> Path:
        return self._one("*.mcpb")

    def _one(self, pattern: str) -> Path:
        (file,) = self.folder.glob(pattern)
        return file

    def metadata(self) -> bytes:
        with ZipFile(self.wheel) as archive:
            (name,) = (each for each in archive.namelist() if each.endswith("/METADATA"))
            return archive.read(name)

    @staticmethod
    def unpack(archive: Path, folder: Path) -> None:
        if archive.suffix == ".gz":
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")  # filtered
        else:
            with ZipFile(archive) as packed:
                packed.extractall(folder)  # noqa: S202  # our own


def build(folder: Path, checkout: Path = ROOT, umask: int = -1, **environment: str) -> Built:
    """Build a checkout's release into `folder`."""
    command = [sys.executable, "-m", "release", "--out", str(folder)]
    run(command, checkout, environment, umask)
    return Built(folder)


def build_wheel(folder: Path, checkout: Path) -> Path:
    """Build a wheel directly from a checkout, not from the sdist."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder)]
    run(command, checkout)
    return Built(folder).wheel


def run(
    command: list[str], folder: Path, environment: Mapping[str, str] | None = None, umask: int = -1
) -> str:
    """Run a command in a folder with additional variables; return its output."""
    done = subprocess.run(  # noqa: S603  # our own programs
        command,
        cwd=folder,
        env=outside() | {**(environment or {})},
        umask=umask,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def faults(schema: object, content: object) -> list[str]:
    """Return the faults of JSON by a schema of draft 7."""
    validator: Any = Draft7Validator(cast("Any", schema), format_checker=FormatChecker())
    return [error.message for error in validator.iter_errors(content)]


def outside() -> dict[str, str]:
    """Return the environment without the variables of these tests and this server."""
    ours = ("COV", "PYTEST_", "PYTHON", "TWILIO_", "CALLS_MCP_", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def copy_of_the_checkout(folder: Path) -> Path:
    """Copy a checkout with other times and permissions, and files that must not be packaged."""
    copy = folder / "another place" / "calls"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*_LEFT))
    for name in (
        "config/deploy/.env",
        "config/deploy/secrets/principals.toml",
        "config/deploy/audit/audit.jsonl",
        "calls_mcp/__pycache__/cli.cpython-311.pyc",
        "dist/old.whl",
        "notes.txt",
    ):
        file = copy / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("secret", "utf-8")
    for file in copy.rglob("*"):
        if file.is_file() and not os.access(file, os.X_OK):
            file.chmod(0o600)
        os.utime(file, (1_000_000_000, 1_000_000_000))
    return copy
