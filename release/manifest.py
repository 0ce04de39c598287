"""Build the manifest of the MCP bundle from the catalog, the prompts and the settings."""

import re

from calls_mcp.server.prompts import Prompt, load_prompts
from calls_mcp.tools.catalog import Json, load_operations
from release.inputs import Input, inputs
from release.project import ROOT, project, version
from release.registry import TITLE

FILE = ROOT / "release" / "manifest.json"
VERSION = "0.4"  # the first version with servers of type uv
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


def manifest() -> dict[str, Json]:
    """Return the manifest."""
    python = project()["requires-python"]
    asked = {name: inputs()[name] for name in _ASKED}
    return {
        "manifest_version": VERSION,
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
