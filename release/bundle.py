"""Build the MCP bundle: a zip with the wheel's files, an entry point for uv, and the manifest."""

import json
import re
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from calls_mcp.server.prompts import Prompt, load_prompts
from calls_mcp.tools.catalog import Json, load_operations
from release.project import ROOT, Input, inputs, project, version
from release.registry import TITLE

FILE = ROOT / "release" / "manifest.json"
MANIFEST_VERSION = "0.4"  # the first version with servers of type uv
ENTRY = "server/main.py"
_ASKED = {
    "TWILIO_ACCOUNT_SID": "Account SID",
    "TWILIO_API_KEY": "API key",
    "TWILIO_API_SECRET": "API key secret",
    "TWILIO_AUTH_TOKEN": "Auth token",
    "TWILIO_REGION": "Region",
    "TWILIO_EDGE": "Edge",
    "CALLS_MCP_READ_ONLY": "Read only",
    "CALLS_MCP_POLICY": "Policy",
}
_LONG_DESCRIPTION = """\
Needs a Twilio account: its SID, and an API key with its secret (or the account's auth token). \
Calls cost money, so every change is previewed and must be confirmed.

Tested on Linux; macOS and Windows should work too. Needs uv and Python {python}. At the first \
start, uv installs the libraries from its configured package index."""
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


def manifest() -> dict[str, Json]:
    """Return the manifest."""
    python = project()["requires-python"]
    asked = {name: inputs()[name] for name in _ASKED}
    return {
        "manifest_version": MANIFEST_VERSION,
        "name": project()["name"],
        "display_name": TITLE,
        "version": version,
        "description": project()["description"],
        "long_description": _LONG_DESCRIPTION.format(python=python),
        "author": {"name": f"the {project()['name']} authors"},
        "server": {
            "type": "uv",
            "entry_point": ENTRY,
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--directory", "${__dirname}", ENTRY],
                "env": {name: f"${{user_config.{_key(name)}}}" for name in asked},
            },
        },
        "tools": [
            {"name": operation.name, "description": operation.description}
            for operation in load_operations().values()
        ],
        "prompts": [_prompt(prompt) for prompt in load_prompts().values()],
        "keywords": [*project()["keywords"]],
        "license": project()["license"],
        "privacy_policies": ["https://www.twilio.com/en-us/legal/privacy"],
        "compatibility": {
            "platforms": ["darwin", "linux", "win32"],
            "runtimes": {"python": python},
        },
        "user_config": {_key(name): _question(given) for name, given in asked.items()},
    }


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


def _key(variable: str) -> str:
    return re.sub("^(TWILIO|CALLS_MCP)_", "", variable).lower()


def _question(given: Input) -> Json:
    question: dict[str, Json] = {
        "type": given.kind,
        "title": _ASKED[given.variable],
        "description": given.description,
        "required": given.required,
    }
    if given.secret:
        question["sensitive"] = True
    if given.kind == "boolean":
        question["default"] = given.default == "true"
    elif not given.required:
        question["default"] = ""  # without a default, hosts pass the placeholder on
    return question


def _prompt(prompt: Prompt) -> Json:
    given = {argument.name: f"${{arguments.{argument.name}}}" for argument in prompt.arguments}
    return {
        "name": prompt.name,
        "description": prompt.description,
        "arguments": [*given],
        "text": prompt.render(given),
    }
