"""Start a bundle as a host does, by its manifest."""

import json
from pathlib import Path
from typing import Any, TypedDict


class Config(TypedDict):
    """The command and environment with which a host starts the server."""

    command: str
    args: list[str]
    env: dict[str, str]


def configure(folder: Path, answers: dict[str, str]) -> Config:
    """Return how the bundle in `folder` is started with these user inputs."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    defaults = {
        key: str(each["default"]).lower()
        for key, each in manifest["user_config"].items()
        if "default" in each
    }
    values = {f"user_config.{key}": value for key, value in (defaults | answers).items()}
    values["__dirname"] = str(folder)

    def filled(text: str) -> str:
        for name, value in values.items():
            text = text.replace(f"${{{name}}}", value)
        return text

    config: Config = manifest["server"]["mcp_config"]
    return {
        "command": config["command"],
        "args": [*map(filled, config["args"])],
        "env": {name: filled(value) for name, value in config["env"].items()},
    }
