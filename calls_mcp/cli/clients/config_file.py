"""Write a server's entry to a client's file."""

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from calls_mcp.cli.atomic_files import replace_file
from calls_mcp.cli.clients import BRIDGE, Client, Entry, absolute, placeholder
from calls_mcp.errors import ConfigurationError
from calls_mcp.tools.catalog import Json

_BOM = "\ufeff"
_INDENT = "  "

_PLACEHOLDER = re.compile(placeholder(r"\w+"))
_OF_TRANSPORT = frozenset({"type", "command", "args", "env", "url", "serverUrl", "headers"})

_Object = dict[str, Json]


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


def merged(config: Mapping[str, Json], client: Client, entry: Entry) -> _Object:
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
    return BRIDGE if isinstance(args, list) and BRIDGE in args else "stdio"


def _filled(before: Json, made: Json) -> _Object:
    """Return the new values, but keep what the user has filled in for a placeholder."""
    if not (isinstance(before, dict) and isinstance(made, dict)):
        return {}
    news = {k: v for k, v in made.items() if k not in before or not _PLACEHOLDER.search(str(v))}
    return before | news


def write(file: Path, client: Client, entry: Entry) -> Written:
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


def _written(file: Path, text: str | None, client: Client, entry: Entry) -> Written:
    before = _parsed(text or "")
    after = merged(before, client, entry)
    servers = cast("Mapping[str, _Object]", after[client.key])
    text_of_entry = json.dumps(servers[entry.name])
    left = tuple(name for name in client.by_hand(entry) if placeholder(name) in text_of_entry)
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
