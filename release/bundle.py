"""Build the MCP bundle: a zip with the wheel's files, an entry point for uv, and the manifest."""

import json
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from release.manifest import ENTRY, manifest
from release.project import project, version

_MAIN = '''\
"""The entry point of the bundle."""

import sys

from calls_mcp.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
'''
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date in a zip
_READABLE = 0o100644 << 16


def build_bundle(wheel: Path, folder: Path) -> Path:
    """Build the bundle of a wheel in `folder`, reproducibly."""
    files = {
        "manifest.json": _json(manifest()),
        "pyproject.toml": _requirements(),
        ENTRY: _MAIN.encode(),
        **_code(wheel),
    }
    bundle = folder / f"{project()['name']}-{version}.mcpb"
    with ZipFile(bundle, "w") as archive:
        for name, content in sorted(files.items()):
            entry = ZipInfo(name, _EPOCH)
            entry.external_attr = _READABLE
            archive.writestr(entry, content, ZIP_DEFLATED, 9)
    return bundle


def _code(wheel: Path) -> dict[str, bytes]:
    """Return the files of the package and its licence."""
    with ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    package = {
        f"server/{name}": content
        for name, content in files.items()
        if name.startswith("calls_mcp/")
    }
    (licence,) = (content for name, content in files.items() if name.endswith("/licenses/LICENSE"))
    return {**package, "LICENSE": licence}


def _requirements() -> bytes:
    """Return the pyproject.toml with what uv installs before it starts the entry point."""
    described = project()
    lines = [
        "[project]",
        *(f"{key} = {json.dumps(described[key])}" for key in ("name", "requires-python")),
        f"version = {json.dumps(version)}",
        "dependencies = [",
        *(f"  {json.dumps(dependency)}," for dependency in described["dependencies"]),
        "]",
        "",
        "[tool.uv]",
        "package = false",
        "",
    ]
    return "\n".join(lines).encode()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
