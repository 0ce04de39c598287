"""The MCP clients: the file and format of their configurations, and how they get secrets."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from calls_mcp.errors import ConfigurationError
from calls_mcp.tools.catalog import Json

_PROMPTS = {
    "TWILIO_ACCOUNT_SID": "Twilio account SID (AC…)",
    "TWILIO_API_KEY": "Twilio API key SID (SK…)",
    "TWILIO_API_SECRET": "Secret of the Twilio API key",
    "TWILIO_AUTH_TOKEN": "Twilio auth token",
    "CALLS_MCP_SECRET_KEYS": "Keys that sign confirmations (at least 32 characters)",
    "CALLS_MCP_STATE_URL": "URL of the state store",
}
BRIDGE = "mcp-remote"
_NOT_SECRET = frozenset({"TWILIO_ACCOUNT_SID", "TWILIO_API_KEY"})


@dataclass(frozen=True, slots=True)
class Entry:
    """How a client starts this server, or the `url` at which it connects to one over HTTP.

    `env` has the variables whose values may be in a file; `asked` names the secret ones. With a
    `url`, `asked` has at most one variable: the one with the token.
    """

    name: str
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    asked: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """An MCP client.

    `file` returns the path of its configuration and `key` is the member with the servers. `after`
    says what to do once the entry is there. `reference(server, variable)` returns the text that the
    client replaces with the variable's value; None if it has no such syntax.
    `prompts` is whether it asks its user for values. `program` is its command, if it has one.
    `url_key` is the member with a server's URL; empty if the client connects over HTTP only through
    mcp-remote. `extra` and `url_extra` are further members.
    """

    title: str
    file: Callable[[], Path]
    key: str
    after: str
    reference: Callable[[str, str], str] | None = None
    prompts: bool = False
    program: str = ""
    extra: Mapping[str, Json] = field(default_factory=dict[str, Json])
    url_key: str = "url"
    url_extra: Mapping[str, Json] = field(default_factory=dict[str, Json])

    def entry(self, entry: Entry) -> dict[str, Json]:
        """Return the value under the server's name."""
        if entry.url:
            return self._url_entry(entry) if self.url_key else self._bridge_entry(entry)
        shown: dict[str, Json] = {**self.extra, "command": entry.command, "args": [*entry.args]}
        env = {**entry.env, **{name: self._value(entry.name, name) for name in entry.asked}}
        return {**shown, "env": {**env}} if env else shown

    def inputs(self, entry: Entry) -> list[dict[str, Json]]:
        """Return the values that the client asks its user for, if it can."""
        if not self.prompts:
            return []
        return [
            {
                "type": "promptString",
                "id": _identifier(entry.name, name),
                "description": _PROMPTS.get(name, "Access token of the server"),
                "password": name not in _NOT_SECRET,
            }
            for name in entry.asked
        ]

    def is_installed(self) -> bool:
        """Return whether this machine seems to have the client."""
        if self.program:
            return shutil.which(self.program) is not None
        return self.file().parent.is_dir()

    def by_hand(self, entry: Entry) -> tuple[str, ...]:
        """Return the variables whose values a person must put into the file."""
        return () if self.reference else entry.asked

    def _url_entry(self, entry: Entry) -> dict[str, Json]:
        shown: dict[str, Json] = {**self.url_extra, self.url_key: entry.url}
        if not entry.asked:
            return shown
        value = self._value(entry.name, entry.asked[0])
        return {**shown, "headers": {"Authorization": f"Bearer {value}"}}

    def _bridge_entry(self, entry: Entry) -> dict[str, Json]:
        """Return an entry that starts mcp-remote.

        The header is in a variable because Claude Desktop on Windows splits arguments at spaces.
        """
        args: list[Json] = ["-y", BRIDGE, entry.url]
        if entry.url.startswith("http:"):
            args.append("--allow-http")
        shown: dict[str, Json] = {**self.extra, "command": "npx", "args": args}
        if not entry.asked:
            return shown
        args += ["--header", "Authorization:${AUTHORIZATION}"]
        return {**shown, "env": {"AUTHORIZATION": f"Bearer {placeholder(entry.asked[0])}"}}

    def _value(self, name: str, variable: str) -> str:
        return self.reference(name, variable) if self.reference else placeholder(variable)


def absolute(path: Path) -> Path:
    """Return the absolute path.

    Raises:
        ConfigurationError: It is relative, and the working directory has been deleted.
    """
    try:
        return path.absolute()
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: the current directory no longer exists.") from None


def placeholder(variable: str) -> str:
    """Return the text in a file that the user replaces with the value."""
    return f"put your {variable} here"


def _identifier(name: str, variable: str) -> str:
    return f"{name}-{variable.lower().replace('_', '-')}"


def _home(*parts: str) -> Path:
    return Path.home().joinpath(*parts)


def _settings(*parts: str) -> Path:
    """Return a path in this platform's directory for user settings."""
    if sys.platform == "darwin":
        return _home("Library", "Application Support", *parts)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or _home("AppData", "Roaming")).joinpath(*parts)
    return Path(os.environ.get("XDG_CONFIG_HOME") or _home(".config")).joinpath(*parts)


def _zed() -> Path:
    """Return the path of Zed's settings, which on macOS is the same as on Linux."""
    if sys.platform == "win32":
        return _settings("Zed", "settings.json")
    if sys.platform == "darwin":
        return _home(".config", "zed", "settings.json")
    return _settings("zed", "settings.json")


def _inspector() -> Path:
    named = os.environ.get("MCP_CATALOG_PATH")
    return Path(named) if named else _home(".mcp-inspector", "mcp.json")


def _env(_name: str, variable: str) -> str:
    return f"${{env:{variable}}}"


CLIENTS: Mapping[str, Client] = {
    "claude-desktop": Client(
        "Claude Desktop",
        lambda: _settings("Claude", "claude_desktop_config.json"),
        "mcpServers",
        "Quit Claude Desktop and start it again.",
        url_key="",
    ),
    "claude-code": Client(
        "Claude Code",
        lambda: absolute(Path(".mcp.json")),
        "mcpServers",
        "Start claude in this directory and approve the server.",
        reference=lambda _, variable: f"${{{variable}}}",
        program="claude",
        extra={"type": "stdio"},
        url_extra={"type": "http"},
    ),
    "cursor": Client(
        "Cursor",
        lambda: _home(".cursor", "mcp.json"),
        "mcpServers",
        "Turn on the server in Cursor's settings, under MCP.",
        reference=_env,
    ),
    "vscode": Client(
        "VS Code",
        lambda: _settings("Code", "User", "mcp.json"),
        "servers",
        "In VS Code, run the command MCP: List Servers and start the server.",
        reference=lambda name, variable: f"${{input:{_identifier(name, variable)}}}",
        prompts=True,
        program="code",
        extra={"type": "stdio"},
        url_extra={"type": "http"},
    ),
    "windsurf": Client(
        "Windsurf",
        lambda: _home(".codeium", "windsurf", "mcp_config.json"),
        "mcpServers",
        "Refresh the servers in Windsurf's Cascade panel.",
        reference=_env,
        url_key="serverUrl",
    ),
    "zed": Client("Zed", _zed, "context_servers", "Check the server in Zed's agent panel."),
    "inspector": Client(
        "MCP Inspector",
        _inspector,
        "mcpServers",
        "Run (with Node.js 22.19 or newer): npx @modelcontextprotocol/inspector",
        extra={"type": "stdio"},
        url_extra={"type": "streamable-http"},
    ),
}
"""The clients by their names on the command line."""
