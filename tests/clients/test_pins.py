"""The pinned versions, the table and the installed clients agree."""

import json
import re
from pathlib import Path

import pytest

from tests.clients.conversation import needs_client
from tests.clients.pins import CLIENTS, Pin

README = Path(__file__).with_name("README.md")
_ROW = re.compile(r"^\| .* \| `(?P<name>[a-z0-9-]+)` \| (?P<version>[0-9.]+) \|", re.MULTILINE)


def test_the_table_has_every_client_with_its_pinned_version() -> None:
    rows = _ROW.finditer(README.read_text("utf-8"))
    assert {row["name"]: row["version"] for row in rows} == {
        name: pin.version for name, pin in CLIENTS.items()
    }


@pytest.mark.clients
@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_client(name)) for name in CLIENTS])
def test_the_pinned_versions_are_installed(name: str) -> None:
    assert _installed(CLIENTS[name]) == CLIENTS[name].version


def _installed(pin: Pin) -> str:
    package = re.sub(r"(\[.*\])?[=@]+[^=@]*$", "", pin.packages[0])
    if pin.registry == "npm":
        about = json.loads(
            (pin.home / "node_modules" / package / "package.json").read_text("utf-8")
        )
        return about["version"]
    [metadata] = pin.home.glob(f"lib/python*/site-packages/{package.replace('-', '_')}-*.dist-info")
    return metadata.name.removesuffix(".dist-info").rpartition("-")[2]
