"""A virtual environment that is created quickly and without a package index.

It looks like one made by `python3 -m venv`, but its `pip` links the requested packages and their
dependencies from the environment of the tests. A page that forgets to install something fails.
"""

import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePath
from shlex import quote
from venv import EnvBuilder

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

INSTEAD = f"{quote(sys.executable)} {quote(str(Path(__file__).resolve()))} venv"
"""The command that replaces `python3 -m venv` in a page."""

_SCRIPT = """#!{python}
import sys
from {module} import {name}
sys.exit({name}())
"""


def make(folder: Path) -> None:
    """Create an empty environment."""
    EnvBuilder(symlinks=True).create(folder)
    this = quote(str(Path(__file__).resolve()))
    command = f"exec {quote(sys.executable)} {this} pip {quote(str(folder))}"
    _executable(folder / "bin" / "pip", f'#!/bin/sh\n{command} "$@"\n')


def install(folder: Path, wanted: Sequence[str]) -> None:
    """Install packages like `pip install`; `.` is the checkout.

    Raises:
        PackageNotFoundError: The environment of the tests lacks the package.
    """
    named = [word for word in wanted if not word.startswith("-")]
    requirements = [
        Requirement(f"calls-mcp{word[1:]}" if word.startswith(".") else word) for word in named
    ]
    for package in _with_dependencies(requirements):
        _link(package, folder)


def _with_dependencies(wanted: list[Requirement]) -> Iterator[Distribution]:
    seen: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        package = distribution(requirement.name)
        for extra in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), extra)
            if key in seen:
                continue
            seen.add(key)
            wanted += (
                needed
                for needed in map(Requirement, package.requires or ())
                if needed.marker is None or needed.marker.evaluate({"extra": extra})
            )
        yield package


def _link(package: Distribution, folder: Path) -> None:
    """Link the files of a package into the environment and create its commands."""
    (site,) = folder.glob("lib/python*/site-packages")
    source = Path(str(package.locate_file("")))
    files = (file for file in package.files or () if ".." not in file.parts)
    for part in {_whole(source, PurePath(file)) for file in files}:
        link = site / part
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source / part)
    for command in package.entry_points.select(group="console_scripts"):
        python, name = folder / "bin" / "python", command.attr
        script = _SCRIPT.format(python=python, module=command.module, name=name)
        _executable(folder / "bin" / command.name, script)


def _whole(source: Path, file: PurePath) -> PurePath:
    """Return the outermost package directory of a file, or the file itself."""
    folders = [*file.parents][-2::-1]  # from the outermost, and without "."
    return next((each for each in folders if (source / each / "__init__.py").exists()), file)


def _executable(file: Path, text: str) -> None:
    file.write_text(text, "utf-8")
    file.chmod(0o755)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["venv", place]:
            make(Path(place).absolute())
        case ["pip", place, "install", *words]:
            install(Path(place), words)
        case others:
            sys.exit(f"unknown arguments: {others}")
