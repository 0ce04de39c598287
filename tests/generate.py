"""Write all generated files: `python -m tests.generate`."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Literal, Required, TypedDict, cast

import anyio

from calls_mcp import __version__
from calls_mcp.tools.catalog import Json
from release import bundle, registry
from tests.docs.generated import pages
from tests.harness import open_harness

SNAPSHOTS = Path(__file__).parent / "snapshots"
DEPLOY = Path(__file__).parent.parent / "config" / "deploy"
NUMBER = r"[0-9]+\.[0-9]+\.[0-9]+(?:[a-z0-9.]*[a-z0-9])?"


class Property(TypedDict, total=False):
    """One property of a published input schema."""

    type: Required[Literal["string", "integer", "boolean", "array"]]
    description: Required[str]
    enum: list[str]
    items: "Property"
    pattern: str
    minimum: int
    maximum: int
    maxLength: int
    default: Json


class InputSchema(TypedDict, total=False):
    """A published input schema."""

    type: Required[str]
    properties: Required[dict[str, Property]]
    additionalProperties: Required[bool]
    required: list[str]


class Definition(TypedDict):
    """A tool as a client gets it."""

    name: str
    title: str
    description: str
    inputSchema: InputSchema
    outputSchema: dict[str, Json]
    annotations: dict[str, bool]


@cache
def definitions() -> dict[str, Definition]:
    """The tools by name, as a client gets them."""
    return {definition["name"]: definition for definition in anyio.run(_definitions)}


async def _definitions() -> list[Definition]:
    async with open_harness() as harness, harness.connect() as agent:
        tools = (await agent.client.list_tools()).tools
        dumps = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]
        return cast("list[Definition]", dumps)


def snapshots() -> dict[Path, str]:
    """The published definition of each tool."""
    return {
        SNAPSHOTS / f"{name}.json": json.dumps(definition, indent=2, ensure_ascii=False) + "\n"
        for name, definition in definitions().items()
    }


def release_files() -> dict[Path, str]:
    """Return the files that installers read."""
    made = {bundle.FILE: bundle.manifest(), registry.FILE: registry.server_json()}
    return {
        path: json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for path, content in made.items()
    }


def deploy_files() -> dict[Path, str]:
    """The files under config/deploy/ that name the image, with this version of it."""
    texts = {path: path.read_text("utf-8") for path in sorted(DEPLOY.iterdir()) if path.is_file()}
    image = rf"\bcalls-mcp:{NUMBER}"
    return {
        path: re.sub(image, f"calls-mcp:{__version__}", text)
        for path, text in texts.items()
        if re.search(image, text)
    }


def documents() -> dict[Path, str]:
    """Every generated file, with what should be in it."""
    return {**snapshots(), **release_files(), **deploy_files(), **pages()}


def main() -> None:
    for path, text in documents().items():
        path.write_text(text, "utf-8", newline="\n")


if __name__ == "__main__":
    main()
