"""What `pyproject.toml` says of the project, and which version it is."""

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
    # A mapping of what tomllib returns to what is known of this one file.
    file: _File = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))  # pyright: ignore[reportAssignmentType]
    return file


def project() -> Project:
    """The table `[project]`."""
    return _file()["project"]


def registry_name() -> str:
    """The server's name in the MCP registry: a namespace that the publisher owns, and ours."""
    return f"{_file()['tool']['release']['namespace']}/{project()['name']}"
