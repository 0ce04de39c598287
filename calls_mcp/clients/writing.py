"""Puts a server's entry into a client's file, and leaves everything else there alone."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from calls_mcp.catalog import Json
from calls_mcp.clients.client import Client, Entry, absolute, placeholder
from calls_mcp.clients.document import Document, DocumentError
from calls_mcp.errors import ConfigurationError
from calls_mcp.replacing import replace_file

_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class Written:
    """What was done: `changed` is whether anything was, `backup` the file as it was before.

    `by_hand` are the variables whose values a person must still put in.
    """

    file: Path
    changed: bool
    by_hand: tuple[str, ...]
    backup: Path | None = None


def merged(document: Document, client: Client, entry: Entry) -> Document:
    """`document` with the entry in it. What somebody has put into it by hand stays.

    Raises:
        DocumentError: It can't be put there without losing something.
    """
    for path, value in _changes(document, client, entry):
        document = document.with_member(path, value)
    missing = _missing(document, client.inputs(entry))
    return document.with_items("inputs", missing) if missing else document


def write(file: Path, client: Client, entry: Entry) -> Written:
    """Put the entry into `file`, with a backup beside it; nothing is done if it is there already.

    Raises:
        ConfigurationError: The file is not what it should be, or can't be written.
    """
    try:
        file = Path(os.path.realpath(absolute(file)))  # a link stays one
        data = _read(file)
        text = (data or b"").decode("utf-8")
        bom = _BOM if text.startswith(_BOM) else ""
        after = merged(Document(text.removeprefix(_BOM)), client, entry)
        new = f"{bom}{after.text}".encode()
        left = _left(after, client, entry)
        if new == data:
            return Written(file, changed=False, by_hand=left)
        return Written(file, changed=True, by_hand=left, backup=_replace(file, data, new))
    except OSError as failure:
        raise ConfigurationError(f"{file}: can't be written: {failure.strerror}.") from failure
    except UnicodeError:
        raise ConfigurationError(f"{file}: is not UTF-8; put the entry in by hand.") from None
    except DocumentError as wrong:
        reason = f"{file}: {wrong}; mend it, or put the entry in by hand."
        raise ConfigurationError(reason) from None


def _read(file: Path) -> bytes | None:
    """What is in `file`; None if there is none."""
    try:
        is_regular = stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:
        return None
    if not is_regular:
        raise ConfigurationError(f"{file}: is not a regular file.")
    return file.read_bytes()


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
    """A name for a backup that no file has yet."""
    number, backup = 1, file.with_name(f"{file.name}.bak")
    while backup.exists():
        number += 1
        backup = file.with_name(f"{file.name}.bak{number}")
    return backup


def _at(table: Mapping[str, Json], path: tuple[str, ...]) -> Json:
    value: Json = {**table}
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _changes(
    document: Document, client: Client, entry: Entry
) -> Iterator[tuple[tuple[str, ...], Json]]:
    """What goes where, by the least: a value that was put in for a placeholder stays."""
    place, made = (client.key, entry.name), client.entry(entry)
    before = _at(document.value, place)
    if not isinstance(before, dict):
        yield place, made
        return
    was, env = before.get("env"), made.pop("env", None)
    yield from (((*place, key), value) for key, value in made.items())
    if not (isinstance(was, dict) and isinstance(env, dict)):
        yield from [((*place, "env"), env)] if env else []
        return
    for key, value in env.items():
        if key not in was or value != placeholder(key):
            yield (*place, "env", key), value


def _left(document: Document, client: Client, entry: Entry) -> tuple[str, ...]:
    env = _at(document.value, (client.key, entry.name, "env"))
    values = env if isinstance(env, dict) else {}
    return tuple(name for name in client.by_hand(entry) if values.get(name) == placeholder(name))


def _missing(document: Document, wanted: list[Json]) -> list[Json]:
    """Those of the inputs that are wanted that are not there."""
    there = document.value.get("inputs", [])
    items = there if isinstance(there, list) else []
    known = [item.get("id") for item in items if isinstance(item, dict)]
    return [item for item in wanted if isinstance(item, dict) and item.get("id") not in known]
