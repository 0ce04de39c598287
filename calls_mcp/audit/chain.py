"""Chain each record to the one before it by its hash."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from pydantic_core import from_json

from calls_mcp.tools.catalog import Json

Fields = dict[str, Json]

ORDER = (
    "seq",
    "time",
    "phase",
    "id",
    "principal",
    "tool",
    "action",
    "effect",
    "account_sid",
    "sid",
    "arguments",
    "decision",
    "rule",
    "confirmed_by",
    "decided_by",
    "approval_id",
    "reason",
    "outcome",
    "error_kind",
    "http_status",
    "request_id",
    "duration_ms",
    "trace_id",
    "mcp_request_id",
    "prev",
    "hash",
)
"""The fields of a record, in the order they are written in."""


@dataclass(frozen=True, slots=True)
class Link:
    """A record's place in the chain: its number, from 1, and its hash."""

    seq: int
    hash: str


START = Link(0, "0" * 64)
"""What the first record is chained to."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A record as it is written: one line of ASCII, without its line feed."""

    line: str
    fields: Mapping[str, Json]
    link: Link


def seal(fields: Mapping[str, Json], last: Link) -> Sealed:
    """Return the record of `fields` that follows `last`. What is None or empty is left out."""
    known: Fields = {**fields, "seq": last.seq + 1, "prev": last.hash}
    record = {name: known[name] for name in ORDER if known.get(name) not in (None, "")}
    digest = hashlib.sha256(encode(record).encode()).hexdigest()
    record["hash"] = digest
    return Sealed(encode(record), record, Link(last.seq + 1, digest))


def parse(line: bytes) -> Fields | None:
    """Return the JSON object in `line`, whether or not it is a sound record; None if none is."""
    try:
        record = _parsed(line)
    except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError too
        return None
    return cast("Fields", record) if isinstance(record, dict) else None


def place(record: Mapping[str, Json]) -> Link | None:
    """Return the place that a record claims, right or wrong; None if it claims none."""
    seq, digest = record.get("seq"), record.get("hash")
    if type(seq) is int and isinstance(digest, str):
        return Link(seq, digest)
    return None


def is_sound(line: bytes, record: Mapping[str, Json]) -> bool:
    """Return whether `line`, of which `record` was parsed, is exactly what was written."""
    end = f',"hash":{json.dumps(record.get("hash"))}}}'.encode()
    if not line.endswith(end):
        return False
    rest = line.removesuffix(end) + b"}"
    try:
        digest = hashlib.sha256(rest).hexdigest()
        return record.get("hash") == digest and encode(record).encode() == line
    except (ValueError, RecursionError):  # a NaN, or nested beyond measure
        return False


def encode(record: Mapping[str, Json]) -> str:
    """Return the one form of a record: compact, and in ASCII so that it is always one line."""
    return json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _parsed(line: bytes) -> object:
    try:
        return from_json(line)
    except ValueError:  # half of a surrogate pair, which the standard library accepts
        return json.loads(line)
