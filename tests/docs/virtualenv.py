"""A reader's virtual environment, in a moment and without an index.

It is where and what `python3 -m venv` makes, but for its `pip`, which takes what is asked for, and
what that requires, from the environment of the tests, and nothing besides: a page that forgets to
install something fails.
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
"""What is run where a page has `python3 -m venv`."""

_SCRIPT = """#!{python}
import sys
from {module} import {name}
sys.exit({name}())
"""


def make(folder: Path) -> None:
    """Make one that has nothing yet."""
    EnvBuilder(symlinks=True).create(folder)
    this = quote(str(Path(__file__).resolve()))
    command = f"exec {quote(sys.executable)} {this} pip {quote(str(folder))}"
    _executable(folder / "bin" / "pip", f'#!/bin/sh\n{command} "$@"\n')


def install(folder: Path, wanted: Sequence[str]) -> None:
    """Do as `pip install` does with these words; `.` is the checkout.

    Raises:
        PackageNotFoundError: The environment of the tests has no such package.
    """
    named = [word for word in wanted if not word.startswith("-")]
    requirements = [
        Requirement(f"calls-mcp{word[1:]}" if word.startswith(".") else word) for word in named
    ]
    for package in _with_what_they_require(requirements):
        _link(package, folder)


def _with_what_they_require(wanted: list[Requirement]) -> Iterator[Distribution]:
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
    """Put what a package consists of where it belongs, and its commands beside Python."""
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
    """The folder that is a package of its own, and no other has a part in; else the file."""
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
            sys.exit(f"nobody knows what to do with {others}")
