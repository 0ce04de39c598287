"""The manifest of the MCP bundle, made from the catalog, the prompts and the settings."""

import re

from calls_mcp.server.prompts import Prompt, load_prompts
from calls_mcp.tools.catalog import Json, load_operations
from release.inputs import Input, inputs
from release.project import ROOT, project, version
from release.registry import TITLE

FILE = ROOT / "release" / "manifest.json"
VERSION = "0.4"  # the first one with servers that uv installs
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
_TOLD = """\
Needs a Twilio account: its SID, and an API key with its secret (or the account's auth token). \
Placing a call costs money. Every change is shown in plain words and needs a yes.

Tried on Linux; macOS and Windows have what it needs: uv, and Python {python}. At the first start \
uv installs the libraries, from the package index that it is set up with. On Windows the event \
loop is Python's own, elsewhere uvloop."""


def manifest() -> dict[str, Json]:
    """The manifest."""
    python = project()["requires-python"]
    asked = {name: inputs()[name] for name in _ASKED}
    return {
        "manifest_version": VERSION,
        "name": project()["name"],
        "display_name": TITLE,
        "version": version,
        "description": project()["description"],
        "long_description": _TOLD.format(python=python),
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
        question["default"] = ""  # or a host leaves the placeholder where the value should be
    return question


def _prompt(prompt: Prompt) -> Json:
    given = {argument.name: f"${{arguments.{argument.name}}}" for argument in prompt.arguments}
    return {
        "name": prompt.name,
        "description": prompt.description,
        "arguments": [*given],
        "text": prompt.render(given),
    }
