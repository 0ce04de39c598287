"""The project's metadata in `pyproject.toml`, and its version."""

import tomllib
from functools import cache
from pathlib import Path
from typing import TypedDict

from calls_mcp import __version__ as version

__all__ = ["ROOT", "Project", "project", "registry_name", "version"]

ROOT = Path(__file__).parent.parent

# The keys are those of PEP 621.
Project = TypedDict(
    "Project",
    {
        "name": str,
        "description": str,
        "license": str,
        "requires-python": str,
        "keywords": list[str],
        "dependencies": list[str],
    },
)


class _Release(TypedDict):
    namespace: str


class _Tool(TypedDict):
    release: _Release


class _File(TypedDict):
    project: Project
    tool: _Tool


@cache
def _file() -> _File:
    # tomllib returns untyped data.
    file: _File = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))  # pyright: ignore[reportAssignmentType]
    return file


def project() -> Project:
    """Return the table `[project]`."""
    return _file()["project"]


def registry_name() -> str:
    """Return the server's name in the MCP registry: the publisher's namespace and the name."""
    return f"{_file()['tool']['release']['namespace']}/{project()['name']}"
