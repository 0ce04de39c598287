"""Decide at collection which tests can run here, and mark them by what they need.

A test needs a program if it has the marker `needs(tool=…)`, a fixture that starts the program, or
that fixture as a parameter. A skip inside an asynchronous test or fixture would end the runner that
later tests share, so nothing is skipped later. `TESTS_WITHOUT="chromium redis" pytest` hides both.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

AXE = Path(sys.prefix) / "axe" / "node_modules" / "axe-core" / "axe.min.js"
_INSTALL: Mapping[str, str] = {
    "axe-core": "npm install --prefix .venv/axe axe-core",
    "chromium": "apt-get install chromium",
    "curl": "apt-get install curl",
    "haproxy": "apt-get install haproxy",
    "nginx": "apt-get install nginx-light",
    "redis": "apt-get install redis-server",
}
_MARKERS: Mapping[str, str] = {
    "axe-core": "browser",
    "chromium": "browser",
    "curl": "process",
    "haproxy": "services",
    "nginx": "services",
    "redis": "services",
}
_FIXTURES: Mapping[str, str] = {
    "chromium": "chromium",
    "own_redis": "redis",
    "shared_redis": "redis",
}
_COMMANDS: Mapping[str, Sequence[str]] = {
    "chromium": ("chromium", "chromium-browser"),
    "redis": ("redis-server",),
}
_HIDDEN = frozenset(os.environ.get("TESTS_WITHOUT", "").split())


def program(name: str) -> str | None:
    """Return the path of a program, or None; a user's PATH may lack the folders of root's."""
    if name in _HIDDEN:
        return None
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    found = (shutil.which(command, path=path) for command in _COMMANDS.get(name, (name,)))
    return next(filter(None, found), None)


def mark_by_need(items: Sequence[pytest.Item]) -> None:
    """Mark each test by what it needs, and skip it where something is missing."""
    for item in items:
        for tool in {*_needed(item)}:
            item.add_marker(pytest.mark.needs(tool=tool))
            item.add_marker(_MARKERS[tool])
            if not _is_there(tool):
                item.add_marker(pytest.mark.skip(reason=f"no {tool}: {_INSTALL[tool]}"))


def _needed(item: pytest.Item) -> Iterator[str]:
    yield from (marker.kwargs["tool"] for marker in item.iter_markers("needs"))
    if isinstance(item, pytest.Function):
        yield from (_FIXTURES[name] for name in item.fixturenames if name in _FIXTURES)
        if hasattr(item, "callspec"):
            yield from {"redis"} & {v for v in item.callspec.params.values() if isinstance(v, str)}


def _is_there(tool: str) -> bool:
    if tool == "axe-core":
        return tool not in _HIDDEN and AXE.is_file()
    return program(tool) is not None
