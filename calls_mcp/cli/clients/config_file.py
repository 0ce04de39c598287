"""Puts a server's entry into a client's file, or has the client's own command do it."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from calls_mcp.cli.atomic_files import replace_file
from calls_mcp.cli.clients import Client, Entry, absolute, placeholder
from calls_mcp.errors import ConfigurationError
from calls_mcp.tools.catalog import Json

_BOM = "\ufeff"
_PATIENCE = 30  # seconds for a client's command
_INDENT = "  "

_Object = dict[str, Json]


class _Loss(ValueError):
    """What a rewrite of the file would lose."""


class Unchangeable(ConfigurationError):
    """The client's file has something that a rewrite would lose: the entry must go in by hand."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was done: `changed` is whether anything was, `backup` the file as it was before.

    `by_hand` are the variables whose values a person must still put in.
    """

    file: Path
    changed: bool
    by_hand: tuple[str, ...]
    backup: Path | None = None


def merged(config: Mapping[str, Json], client: Client, entry: Entry) -> _Object:
    """Return the configuration with the entry in it. What somebody put there by hand stays.

    Raises:
        _Loss: Something else is where the entry belongs.
    """
    servers = config.get(client.key, {})
    if not isinstance(servers, dict):
        raise _Loss(f"has something else than an object as {client.key}")
    made = client.entry(entry)
    before = servers.get(entry.name)
    if isinstance(before, dict):
        made = before | made | _env(before.get("env"), made.get("env"))
    after: _Object = {**config, client.key: {**servers, entry.name: made}}
    inputs = config.get("inputs", [])
    if not isinstance(inputs, list):
        raise _Loss("has something else than an array as inputs")
    known = [item.get("id") for item in inputs if isinstance(item, dict)]
    missing = [item for item in client.inputs(entry) if item["id"] not in known]
    return {**after, "inputs": [*inputs, *missing]} if missing else after


def _env(before: Json, made: Json) -> _Object:
    """Return the variables: a value that somebody put in for a placeholder stays."""
    if not (isinstance(before, dict) and isinstance(made, dict)):
        return {}
    news = {k: v for k, v in made.items() if k not in before or v != placeholder(k)}
    return {"env": before | news}


def write(file: Path, client: Client, entry: Entry, *, usual: bool) -> Written:
    """Put the entry into `file`, with a backup beside it; do nothing if it is there already.

    The client's own command does it if there is one, `file` is the `usual` one, and the server is
    not in it yet.

    Raises:
        ConfigurationError: The file cannot be written.
        Unchangeable: The entry must go in by hand.
    """
    try:
        file = Path(os.path.realpath(absolute(file)))  # a link stays one
        text = _read(file)
        if usual and json.dumps(entry.name) not in (text or "") and _added(client, entry):
            text = _read(file)
            if text is not None and json.dumps(entry.name) in text:
                return Written(file, changed=True, by_hand=client.by_hand(entry))
        return _written(file, text, client, entry)
    except OSError as failure:
        raise ConfigurationError(f"{file}: can't be written: {failure.strerror}.") from failure
    except UnicodeError:
        raise _unchangeable(file, "is not UTF-8") from None
    except ValueError as wrong:
        raise _unchangeable(file, str(wrong)) from None


def _unchangeable(file: Path, reason: str) -> Unchangeable:
    return Unchangeable(f"{file}: {reason}; put the entry in by hand.")


def _written(file: Path, text: str | None, client: Client, entry: Entry) -> Written:
    before = _parsed(text or "")
    after = merged(before, client, entry)
    servers = cast("Mapping[str, _Object]", after[client.key])
    env = cast("_Object", servers[entry.name].get("env", {}))
    left = tuple(name for name in client.by_hand(entry) if env.get(name) == placeholder(name))
    if after == before:
        return Written(file, changed=False, by_hand=left)
    backup = _replace(file, None if text is None else text.encode(), _shown(after, text or ""))
    return Written(file, changed=True, by_hand=left, backup=backup)


def _added(client: Client, entry: Entry) -> bool:
    """Let the client's own command add the entry; False without one or if it fails."""
    command = client.command(entry)
    program = shutil.which(command[0]) if command else None
    if program is None or sys.platform == "win32":  # where it is a batch file that mangles quotes
        return False
    try:
        done = subprocess.run(  # noqa: S603 - the client's own command
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _read(file: Path) -> str | None:
    """Return the text of `file`, None if there is none."""
    try:
        is_regular = stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:
        return None
    if not is_regular:
        raise ConfigurationError(f"{file}: is not a regular file.")
    return file.read_bytes().decode("utf-8")


def _parsed(text: str) -> _Object:
    """Return the object in a file, which must be plain JSON.

    Raises:
        _Loss: It is not, or writing it again would lose something.
    """
    text = text.removeprefix(_BOM)
    if not text.strip():
        return {}
    try:
        value: object = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as wrong:
        where = f"line {wrong.lineno}: {wrong.msg}"
        raise _Loss(f"is not JSON without comments ({where})") from None
    except RecursionError:
        raise _Loss("is not JSON (too deep)") from None
    if not isinstance(value, dict):
        raise _Loss("is not a JSON object")
    return cast("_Object", value)


def _unique(pairs: list[tuple[str, Json]]) -> _Object:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _Loss("has a member twice")
    return made


def _shown(value: _Object, before: str) -> bytes:
    """Return the text of an object, laid out as the text before it."""
    step = re.search(r"\n([ \t]+)\S", before)
    text = json.dumps(
        value, indent=step[1] if step else _INDENT, ensure_ascii=False, allow_nan=False
    )
    newline = "\r\n" if "\r\n" in before else "\n"
    bom = _BOM if before.startswith(_BOM) else ""
    return f"{bom}{text}\n".replace("\n", newline).encode()


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
    """Return a name for a backup that no file has yet."""
    number, backup = 1, file.with_name(f"{file.name}.bak")
    while backup.exists():
        number += 1
        backup = file.with_name(f"{file.name}.bak{number}")
    return backup
