"""`calls-mcp client-config`: print or write a client's configuration for this server."""

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr, TypeAdapter, ValidationError

from calls_mcp.cli.client_files import (
    CLIENTS,
    Client,
    ServerEntry,
    Unchangeable,
    Written,
    absolute,
    merged,
    write_entry,
)
from calls_mcp.cli.launch_command import Launch, launch_command
from calls_mcp.cli.options import add_json, add_sandbox
from calls_mcp.cli.terminal import say, show_json, warn
from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import HTTP_VARIABLES, ExactUrl, Settings, load_settings
from calls_mcp.storage.database import SQLITE, database_path
from calls_mcp.tools.catalog import Json

_EPILOG = """\
example:
  calls-mcp client-config claude-desktop --sandbox --write
"""
_CREDENTIALS = ("TWILIO_AUTH_TOKEN", "TWILIO_API_KEY", "TWILIO_API_SECRET")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")  # all clients accept these, even with a tool's name
_VARIABLE = re.compile(r"(?!CALLS_MCP_)[A-Za-z_][A-Za-z0-9_]{0,63}")


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    option = parser.add_argument
    option("client", choices=[*CLIENTS], metavar="CLIENT", help=", ".join(CLIENTS))
    option("--write", action="store_true", help="write it to the client's configuration file")
    option("--file", type=Path, help="the configuration file, if it is not the usual one")
    option("--name", default="calls", help="the server's name in the client (default: %(default)s)")
    option("--url", help="connect to a server over HTTP, such as https://mcp.example.com/mcp")
    option(
        "--token-env",
        metavar="NAME",
        help="with --url: environment variable that contains the token",
    )
    add_sandbox(parser)
    add_json(parser, "the result")
    parser.epilog = _EPILOG
    parser.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Print the configuration, or write it. Return the exit status.

    Raises:
        ConfigurationError: The options, the settings or the client's file are wrong.
    """
    client = CLIENTS[options.client]
    if not _NAME.fullmatch(options.name):
        raise ConfigurationError("--name must be 1 to 40 letters, digits, _ or -.")
    if options.url is not None or options.token_env is not None:
        entry, note = _url_entry(options), ""
    else:
        start = launch_command()
        entry, note = _entry(options.name, start, sandbox=options.sandbox), start.note
    file: Path = options.file or client.file()
    try:
        written = write_entry(file, client, entry) if options.write else None
    except Unchangeable:
        say(_snippet(client, entry))
        raise
    if options.json:
        show_json({**_report(client, entry, file, written), "note": note})
        return 0
    if written is None:
        say(_snippet(client, entry))
        warn(f"Add this to {file}, or run again with --write.")
    else:
        warn(_summary(written))
    by_hand = client.by_hand(entry) if written is None else written.by_hand
    for line in _advice(client, entry, by_hand):
        warn(line)
    if note:
        warn(note)
    return 0


def _snippet(client: Client, entry: ServerEntry) -> str:
    return json.dumps(merged({}, client, entry), indent=2, ensure_ascii=False)


def _entry(name: str, start: Launch, *, sandbox: bool) -> ServerEntry:
    settings = load_settings()
    args = (*start.args, "serve", *(["--sandbox"] if sandbox else []))
    env, asked = _variables(settings, sandbox=sandbox)
    return ServerEntry(name, start.command, args, env, asked)


def _url_entry(options: Namespace) -> ServerEntry:
    if options.url is None:
        raise ConfigurationError("--token-env needs --url.")
    if options.sandbox:
        raise ConfigurationError(
            "--url can't be combined with --sandbox. Start the server with --sandbox."
        )
    try:
        url = TypeAdapter[str](ExactUrl).validate_python(options.url)
    except ValidationError:
        raise ConfigurationError(
            "--url must be https://HOST/PATH, or http on this machine, without user, query or "
            "fragment."
        ) from None
    token = options.token_env
    if token is not None and not _VARIABLE.fullmatch(token):
        raise ConfigurationError(
            "--token-env must be the name of a variable, such as CALLS_TOKEN, and not begin with "
            "CALLS_MCP_."
        )
    return ServerEntry(options.name, url=url, asked=(token,) if token else ())


def _variables(settings: Settings, *, sandbox: bool) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables that a file may have, and the names of the secret ones.

    These are the settings of this environment, which the client may not share.
    """
    needed = () if sandbox else ("TWILIO_ACCOUNT_SID", *_credentials(settings))
    given = settings.values(given=True)
    others = [name for name in given if name not in needed and _matters(name, sandbox=sandbox)]
    shown = {name: _shown(given.get(name)) for name in (*needed, *others)}
    env = {name: text for name, text in shown.items() if text is not None}
    return env, tuple(name for name, text in shown.items() if text is None)


def _credentials(settings: Settings) -> tuple[str, ...]:
    """Return the credentials that are set, or those of an API key if none are."""
    has_key = settings.twilio.api_key or settings.twilio.api_secret
    if settings.twilio.auth_token and not has_key:
        return ("TWILIO_AUTH_TOKEN",)
    return ("TWILIO_API_KEY", "TWILIO_API_SECRET")


def _matters(name: str, *, sandbox: bool) -> bool:
    """Return whether a server on stdio uses this setting. Credentials are handled separately."""
    if name in HTTP_VARIABLES or name in _CREDENTIALS:
        return False
    return not (sandbox and (name.startswith("TWILIO_") or name == "CALLS_MCP_API_BASE_URL"))


def _shown(value: object) -> str | None:
    """Return the text of a setting for a file; None if it is secret or not set."""
    if value is None:
        return None
    if isinstance(value, SecretStr):
        return _open_url(value.get_secret_value())
    if isinstance(value, Path):
        return str(absolute(value))
    return str(int(value)) if isinstance(value, bool) else str(value)


def _open_url(secret: str) -> str | None:
    """Return the URL of a state store, or None if it may have a password."""
    if secret == "memory:":  # noqa: S105
        return secret
    file = database_path(secret)
    return f"{SQLITE}{absolute(file)}" if file else None


def _report(
    client: Client, entry: ServerEntry, file: Path, written: Written | None
) -> dict[str, Json]:
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


def _summary(written: Written) -> str:
    if not written.changed:
        return f"{written.file} is up to date."
    backup = f" Backup: {written.backup}." if written.backup else ""
    return f"Updated {written.file}.{backup}"


def _advice(client: Client, entry: ServerEntry, by_hand: tuple[str, ...]) -> Iterator[str]:
    """Yield what is left to do."""
    names = ", ".join(by_hand or entry.asked)
    if by_hand:
        yield (
            f"{client.title} can't read secrets from its environment. In the file, replace each "
            f"placeholder: {names}."
        )
    elif client.prompts and names:
        yield f"{client.title} asks you for {names}."
    elif names:
        yield f"Before you start {client.title}, export {names} in its environment."
    if entry.url and not client.url_key:
        yield (
            f"{client.title} connects through mcp-remote, which needs Node.js 18 or newer. If the "
            "server uses OAuth, you can add its URL under Settings > Connectors instead."
        )
    yield client.after
