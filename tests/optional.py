"""Programs that not every machine has, and which tests can't run without them.

That is decided when tests are collected: a skip inside an asynchronous test or fixture would end
the runner that later tests share. `TESTS_WITHOUT="chromium redis" pytest` hides these two.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

AXE = Path(sys.prefix) / "axe" / "node_modules" / "axe-core" / "axe.min.js"
HOW: Mapping[str, str] = {
    "axe-core": "npm install --prefix .venv/axe axe-core",
    "chromium": "apt-get install chromium",
    "curl": "apt-get install curl",
    "haproxy": "apt-get install haproxy",
    "nginx": "apt-get install nginx-light",
    "redis": "apt-get install redis-server",
}
"""How to install each of them."""
_HIDDEN = frozenset(os.environ.get("TESTS_WITHOUT", "").split())
_COMMANDS: Mapping[str, Sequence[str]] = {
    "chromium": ("chromium", "chromium-browser"),
    "redis": ("redis-server",),
}
_FIXTURES: Mapping[str, str] = {
    "browser": "chromium",
    "chromium": "chromium",
    "own_redis": "redis",
    "shared_redis": "redis",
}


def program(name: str) -> str | None:
    """The path of a program, if there is one; a user's PATH may lack the folders of root's."""
    if name in _HIDDEN:
        return None
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    found = (shutil.which(command, path=path) for command in _COMMANDS.get(name, (name,)))
    return next(filter(None, found), None)


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip a test where one of these is missing."""
    missing = [name for name in names if not _is_there(name)]
    how = "; ".join(f"no {name}: {HOW[name]}" for name in missing)
    return pytest.mark.skipif(bool(missing), reason=how)


def skip_what_can_not_run(items: Sequence[pytest.Item]) -> None:
    """Mark the tests whose fixtures, or their parameters, need what is missing."""
    for item in items:
        for name in {*_needed(item)}:
            item.add_marker(needs(name))


def _needed(item: pytest.Item) -> Iterator[str]:
    if isinstance(item, pytest.Function):
        yield from (_FIXTURES[name] for name in item.fixturenames if name in _FIXTURES)
        if hasattr(item, "callspec"):
            yield from {"redis"} & {v for v in item.callspec.params.values() if isinstance(v, str)}


def _is_there(name: str) -> bool:
    if name == "axe-core":
        return name not in _HIDDEN and AXE.is_file()
    return program(name) is not None
