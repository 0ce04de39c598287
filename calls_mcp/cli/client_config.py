"""`calls-mcp client-config`: print or write the configuration with which a client starts this."""

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from calls_mcp.cli.clients import CLIENTS, Client, Entry, absolute
from calls_mcp.cli.clients.config_file import Unchangeable, Written, merged, write
from calls_mcp.cli.clients.server_command import Launch, launch_command
from calls_mcp.cli.options import add_json, add_sandbox
from calls_mcp.cli.terminal import say, show_json, warn
from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import Settings, load_settings
from calls_mcp.storage.database import SQLITE, database_path
from calls_mcp.tools.catalog import Json

_CREDENTIALS = ("TWILIO_AUTH_TOKEN", "TWILIO_API_KEY", "TWILIO_API_SECRET")
_OF_HTTP = (
    *("CALLS_MCP_HTTP_", "CALLS_MCP_OAUTH_", "CALLS_MCP_AUTH", "CALLS_MCP_PRINCIPALS"),
    *("CALLS_MCP_RESOURCE_URL", "CALLS_MCP_ALLOWED_HOSTS"),
)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")  # what all take, and leave room for a tool's name


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    option = parser.add_argument
    option("client", choices=CLIENTS, help="whose: " + ", ".join(CLIENTS))
    option("--write", action="store_true", help="put it into the client's file")
    option("--file", type=Path, help="that file, if it is not in its usual place")
    option("--name", default="calls", help="the server's name there (%(default)s)")
    add_sandbox(parser)
    add_json(parser, "what was done")
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Print the configuration, or write it. Returns the exit status.

    Raises:
        ConfigurationError: The settings are wrong, or the client's file is.
    """
    client = CLIENTS[options.client]
    start = launch_command()
    entry = _entry(options.name, start, sandbox=options.sandbox)
    file: Path = options.file or client.file()
    try:
        usual = options.file is None
        written = write(file, client, entry, usual=usual) if options.write else None
    except Unchangeable:
        say(_snippet(client, entry))
        raise
    if options.json:
        show_json({**_report(client, entry, file, written), "note": start.note})
        return 0
    if written is None:
        say(_snippet(client, entry))
        warn(f"This belongs into {file}; --write puts it there.")
    else:
        warn(_told(written))
    by_hand = client.by_hand(entry) if written is None else written.by_hand
    for line in _advice(client, entry, by_hand):
        warn(line)
    if start.note:
        warn(start.note)
    return 0


def _snippet(client: Client, entry: Entry) -> str:
    return json.dumps(merged({}, client, entry), indent=2, ensure_ascii=False)


def _entry(name: str, start: Launch, *, sandbox: bool) -> Entry:
    if not _NAME.fullmatch(name):
        raise ConfigurationError("--name must be 1 to 40 of a to z, A to Z, 0 to 9, _ and -.")
    settings = load_settings()
    args = (*start.args, "serve", *(["--sandbox"] if sandbox else []))
    env, asked = _variables(settings, sandbox=sandbox)
    return Entry(name, start.command, args, env, asked)


def _variables(settings: Settings, *, sandbox: bool) -> tuple[dict[str, str], tuple[str, ...]]:
    """What this server is to be told: what a file may have of it, and what it may not.

    That is what the environment here sets, since a client that is not started from this shell has
    none of it.
    """
    needed = () if sandbox else ("TWILIO_ACCOUNT_SID", *_credentials(settings))
    given = settings.values(given=True)
    others = [name for name in given if name not in needed and _matters(name, sandbox=sandbox)]
    shown = {name: _shown(given.get(name)) for name in (*needed, *others)}
    env = {name: text for name, text in shown.items() if text is not None}
    return env, tuple(name for name, text in shown.items() if text is None)


def _credentials(settings: Settings) -> tuple[str, ...]:
    """Those that are set; an API key, which can be revoked alone, if none are."""
    has_key = settings.twilio.api_key or settings.twilio.api_secret
    if settings.twilio.auth_token and not has_key:
        return ("TWILIO_AUTH_TOKEN",)
    return ("TWILIO_API_KEY", "TWILIO_API_SECRET")


def _matters(name: str, *, sandbox: bool) -> bool:
    """Whether it counts on stdio, beside the credentials."""
    if name.startswith(_OF_HTTP) or name in _CREDENTIALS:
        return False
    return not (sandbox and (name.startswith("TWILIO_") or name == "CALLS_MCP_API_BASE_URL"))


def _shown(value: object) -> str | None:
    """What a file may have of a setting; None if that is nothing."""
    if value is None:
        return None
    if isinstance(value, SecretStr):
        return _open_url(value.get_secret_value())
    if isinstance(value, Path):
        return str(absolute(value))
    return str(int(value)) if isinstance(value, bool) else str(value)


def _open_url(secret: str) -> str | None:
    """The URL of a state store that is no secret: one that is reached without a password."""
    if secret == "memory:":  # noqa: S105
        return secret
    file = database_path(secret)
    return f"{SQLITE}{absolute(file)}" if file else None


def _report(client: Client, entry: Entry, file: Path, written: Written | None) -> dict[str, Json]:
    report: dict[str, Json] = {
        "client": client.title,
        "file": str(written.file if written else file),
        "configuration": merged({}, client, entry),
        "by_hand": [*(written.by_hand if written else client.by_hand(entry))],
    }
    if written is None:
        return report
    backup = str(written.backup) if written.backup else None
    return {**report, "changed": written.changed, **({"backup": backup} if backup else {})}


def _told(written: Written) -> str:
    if not written.changed:
        return f"{written.file} has it already."
    backup = f" As it was: {written.backup}." if written.backup else ""
    return f"{written.file} was written.{backup}"


def _advice(client: Client, entry: Entry, by_hand: tuple[str, ...]) -> Iterator[str]:
    """What is left to do."""
    if by_hand:
        names = ", ".join(by_hand)
        yield f"{client.title} can't ask for secrets: put {names} into the file by hand."
    elif entry.asked and client.reference and not client.prompts:
        names = ", ".join(entry.asked)
        yield f"{client.title} takes {names} from its environment: export them before it starts."
    yield client.after
