"""Build the MCP registry entry, `server.json`, from the settings and `pyproject.toml`."""

from collections.abc import Iterator

from calls_mcp.settings import HTTP_VARIABLES
from calls_mcp.tools.catalog import Json
from release.project import ROOT, Input, inputs, project, registry_name, version

FILE = ROOT / "server.json"
SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
TITLE = "Calls"
_PORT = 8080


def server_json() -> dict[str, Json]:
    """Return the entry: one package, with a configuration for stdio and one for HTTP."""
    return {
        "$schema": SCHEMA,
        "name": registry_name(),
        "title": TITLE,
        "description": project()["description"],
        "version": version,
        "packages": [_over_stdio(), _over_http()],
    }


def _over_stdio() -> Json:
    local = [each for each in inputs().values() if each.variable not in HTTP_VARIABLES]
    return {
        **_package(),
        "transport": {"type": "stdio"},
        "environmentVariables": [*map(_variable, local)],
    }


def _over_http() -> Json:
    arguments: list[Json] = [{"type": "positional", "value": "serve"}]
    for name, value in (("--transport", "http"), ("--port", str(_PORT))):
        arguments.append({"type": "named", "name": name, "value": value})
    return {
        **_package(),
        "transport": {"type": "streamable-http", "url": f"http://127.0.0.1:{_PORT}/mcp"},
        "packageArguments": arguments,
        "environmentVariables": [*map(_variable, inputs().values())],
    }


def _package() -> dict[str, Json]:
    return {
        "registryType": "pypi",
        "identifier": project()["name"],
        "version": version,
        "runtimeHint": "uvx",
    }


def _variable(given: Input) -> Json:
    return dict(_words(given))


def _words(given: Input) -> Iterator[tuple[str, Json]]:
    yield "name", given.variable
    yield "description", given.description
    if given.kind != "string":
        yield "format", "filepath" if given.kind == "file" else given.kind
    if given.required:
        yield "isRequired", True
    if given.secret:
        yield "isSecret", True
    if given.choices:
        yield "choices", [*given.choices]
    if given.default is not None:
        yield "default", given.default
