"""The MCP clients: their configuration files, what an entry looks like, and how it is written."""

import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from calls_mcp.cli.atomic_files import replace_file
from calls_mcp.errors import ConfigurationError
from calls_mcp.tools.catalog import Json

_BOM = "\ufeff"
_INDENT = "  "
_OF_TRANSPORT = frozenset({"type", "command", "args", "env", "url", "serverUrl", "headers"})
_PROMPTS = {
    "TWILIO_ACCOUNT_SID": "Twilio account SID (AC…)",
    "TWILIO_API_KEY": "Twilio API key SID (SK…)",
    "TWILIO_API_SECRET": "Secret of the Twilio API key",
    "TWILIO_AUTH_TOKEN": "Twilio auth token",
    "CALLS_MCP_SECRET_KEYS": "Keys that sign confirmations (at least 32 characters)",
    "CALLS_MCP_STATE_URL": "URL of the state store",
}
_BRIDGE = "mcp-remote"
_NOT_SECRET = frozenset({"TWILIO_ACCOUNT_SID", "TWILIO_API_KEY"})

_Object = dict[str, Json]


@dataclass(frozen=True, slots=True)
class ServerEntry:
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

    def entry(self, entry: ServerEntry) -> dict[str, Json]:
        """Return the value under the server's name."""
        if entry.url:
            return self._url_entry(entry) if self.url_key else self._bridge_entry(entry)
        shown: dict[str, Json] = {**self.extra, "command": entry.command, "args": [*entry.args]}
        env = {**entry.env, **{name: self._value(entry.name, name) for name in entry.asked}}
        return {**shown, "env": {**env}} if env else shown

    def inputs(self, entry: ServerEntry) -> list[dict[str, Json]]:
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

    def by_hand(self, entry: ServerEntry) -> tuple[str, ...]:
        """Return the variables whose values a person must put into the file."""
        return () if self.reference else entry.asked

    def _url_entry(self, entry: ServerEntry) -> dict[str, Json]:
        shown: dict[str, Json] = {**self.url_extra, self.url_key: entry.url}
        if not entry.asked:
            return shown
        value = self._value(entry.name, entry.asked[0])
        return {**shown, "headers": {"Authorization": f"Bearer {value}"}}

    def _bridge_entry(self, entry: ServerEntry) -> dict[str, Json]:
        """Return an entry that starts mcp-remote.

        The header is in a variable because Claude Desktop on Windows splits arguments at spaces.
        """
        args: list[Json] = ["-y", _BRIDGE, entry.url]
        if entry.url.startswith("http:"):
            args.append("--allow-http")
        shown: dict[str, Json] = {**self.extra, "command": "npx", "args": args}
        if not entry.asked:
            return shown
        args += ["--header", "Authorization:${AUTHORIZATION}"]
        return {**shown, "env": {"AUTHORIZATION": f"Bearer {_placeholder(entry.asked[0])}"}}

    def _value(self, name: str, variable: str) -> str:
        return self.reference(name, variable) if self.reference else _placeholder(variable)


def absolute(path: Path) -> Path:
    """Return the absolute path.

    Raises:
        ConfigurationError: It is relative, and the working directory has been deleted.
    """
    try:
        return path.absolute()
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: the current directory no longer exists.") from None


def _placeholder(variable: str) -> str:
    """Return the text in a file that the user replaces with the value."""
    return f"put your {variable} here"


_PLACEHOLDER = re.compile(_placeholder(r"\w+"))


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


class _Loss(ValueError):
    """Rewriting the file would lose something."""


class Unchangeable(ConfigurationError):
    """Rewriting the client's file would lose something, so the user must add the entry."""


@dataclass(frozen=True, slots=True)
class Written:
    """The result: whether the file `changed`, and the `backup` of its previous content.

    `by_hand` names the variables whose values the user must still fill in.
    """

    file: Path
    changed: bool
    by_hand: tuple[str, ...]
    backup: Path | None = None


def merged(config: Mapping[str, Json], client: Client, entry: ServerEntry) -> _Object:
    """Return the configuration with the entry. What the user has filled in stays.

    Raises:
        _Loss: The configuration has another structure.
    """
    servers = config.get(client.key, {})
    if not isinstance(servers, dict):
        raise _Loss(f"{client.key} is not an object")
    made = client.entry(entry)
    before = servers.get(entry.name)
    if isinstance(before, dict):
        made = _updated(before, made)
    after: _Object = {**config, client.key: {**servers, entry.name: made}}
    inputs = config.get("inputs", [])
    if not isinstance(inputs, list):
        raise _Loss("inputs is not an array")
    known = [item.get("id") for item in inputs if isinstance(item, dict)]
    missing = [item for item in client.inputs(entry) if item["id"] not in known]
    return {**after, "inputs": [*inputs, *missing]} if missing else after


def _updated(before: _Object, made: _Object) -> _Object:
    """Return the new entry, with the members that the user has added or filled in before."""
    if _transport(before) != _transport(made):
        before = {name: value for name, value in before.items() if name not in _OF_TRANSPORT}
    filled: _Object = {
        part: _filled(before.get(part), made.get(part)) for part in ("env", "headers")
    }
    return before | made | {part: values for part, values in filled.items() if values}


def _transport(entry: _Object) -> str:
    args = entry.get("args")
    if "command" not in entry:
        return "http"
    return _BRIDGE if isinstance(args, list) and _BRIDGE in args else "stdio"


def _filled(before: Json, made: Json) -> _Object:
    """Return the new values, but keep what the user has filled in for a placeholder."""
    if not (isinstance(before, dict) and isinstance(made, dict)):
        return {}
    news = {k: v for k, v in made.items() if k not in before or not _PLACEHOLDER.search(str(v))}
    return before | news


def write_entry(file: Path, client: Client, entry: ServerEntry) -> Written:
    """Write the entry to `file` and back up the file; do nothing if it has the entry already.

    Raises:
        ConfigurationError: The file can't be written.
        Unchangeable: The user must add the entry.
    """
    try:
        file = Path(os.path.realpath(absolute(file)))  # to keep a link
        return _written(file, _read(file), client, entry)
    except OSError as failure:
        raise ConfigurationError(f"{file} can't be written: {failure.strerror}.") from failure
    except UnicodeError:
        raise _unchangeable(file, "it is not UTF-8") from None
    except ValueError as wrong:
        reason = str(wrong) if isinstance(wrong, _Loss) else "it has a number that is not JSON"
        raise _unchangeable(file, reason) from None


def _unchangeable(file: Path, reason: str) -> Unchangeable:
    return Unchangeable(f"{file} was not changed, because {reason}. Add the entry by hand.")


def _written(file: Path, text: str | None, client: Client, entry: ServerEntry) -> Written:
    before = _parsed(text or "")
    after = merged(before, client, entry)
    servers = cast("Mapping[str, _Object]", after[client.key])
    text_of_entry = json.dumps(servers[entry.name])
    left = tuple(name for name in client.by_hand(entry) if _placeholder(name) in text_of_entry)
    if after == before:
        return Written(file, changed=False, by_hand=left)
    backup = _replace(file, None if text is None else text.encode(), _shown(after, text or ""))
    return Written(file, changed=True, by_hand=left, backup=backup)


def _read(file: Path) -> str | None:
    """Return the text of `file`; None if the file does not exist."""
    try:
        is_regular = stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:
        return None
    if not is_regular:
        raise ConfigurationError(f"{file} is not a regular file.")
    return file.read_bytes().decode("utf-8")


def _parsed(text: str) -> _Object:
    """Return the object in a file.

    Raises:
        _Loss: It is not plain JSON, or rewriting it would lose something.
    """
    text = text.removeprefix(_BOM)
    if not text.strip():
        return {}
    try:
        value: object = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as wrong:
        where = f"line {wrong.lineno}: {wrong.msg}"
        raise _Loss(f"it is not plain JSON; comments are not supported ({where})") from None
    except RecursionError:
        raise _Loss("its JSON is nested too deeply") from None
    if not isinstance(value, dict):
        raise _Loss("it is not a JSON object")
    return cast("_Object", value)


def _unique(pairs: list[tuple[str, Json]]) -> _Object:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _Loss("a name occurs twice in an object")
    return made


def _shown(value: _Object, before: str) -> bytes:
    """Return the text of an object in the layout of the previous text."""
    step = re.search(r"\n([ \t]+)\S", before)
    text = json.dumps(
        value, indent=step[1] if step else _INDENT, ensure_ascii=False, allow_nan=False
    )
    newline = "\r\n" if "\r\n" in before else "\n"
    return f"{text}\n".replace("\n", newline).encode()


def _replace(file: Path, before: bytes | None, after: bytes) -> Path | None:
    if before is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, after)
        return None
    backup = _free(file)
    replace_file(backup, before)
    backup.chmod(file.stat().st_mode & 0o777)
    replace_file(file, after)
    return backup


def _free(file: Path) -> Path:
    """Return an unused name for a backup."""
    number, backup = 1, file.with_name(f"{file.name}.bak")
    while backup.exists():
        number += 1
        backup = file.with_name(f"{file.name}.bak{number}")
    return backup
