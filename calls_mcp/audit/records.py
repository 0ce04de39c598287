"""What a record says, and how it is chained to the one before it by its hash."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, cast

from pydantic_core import from_json

from calls_mcp.audit.masking import Numbers, masked_arguments, masked_text
from calls_mcp.tools.catalog import Action, Json, Operation

Fields = dict[str, Json]

Decision = Literal[
    "asked", "approved", "allowed", "denied", "declined", "expired", "replayed", "void"
]
ConfirmedBy = Literal["elicitation", "token", "operator", "none"]


@dataclass(frozen=True, slots=True)
class Authority:
    """How a change was confirmed; for an operator, their `name` and the approval's id."""

    by: ConfirmedBy = "none"
    name: str = ""
    approval_id: str = ""


NOBODY = Authority()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An attempt to change something, and what was decided about it.

    `arguments` are as they were given; the record masks them. `rule` is what decided: a rule of the
    policy, or `confirm.place` and the like. `sid` is the call, if there is one yet. `reason` is the
    operator's. `request_id` is the one that log lines about the MCP request have. What is unknown
    stays empty, and is left out of the record.
    """

    principal: str
    operation: Operation
    action: Action
    arguments: Mapping[str, Json] = field(repr=False)
    decision: Decision
    account_sid: str = ""
    sid: str = ""
    rule: str = ""
    authority: Authority = NOBODY
    reason: str = ""
    outcome: str = ""
    error_kind: str = ""
    trace_id: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """The result of a change; `sid` is that of a new call.

    `http_status` and `request_id` are the API's.
    """

    outcome: str
    error_kind: str = ""
    http_status: int | None = None
    sid: str = ""
    request_id: str = ""


def decision_fields(entry: Entry, numbers: Numbers) -> Fields:
    """Return the fields that say what was attempted and decided."""
    return {
        **_identity(entry, numbers),
        "arguments": masked_arguments(entry.operation, entry.arguments, numbers),
        "decision": entry.decision,
        "rule": masked_text(entry.rule, numbers),
        "confirmed_by": entry.authority.by,
        "decided_by": masked_text(entry.authority.name, "whole"),
        "approval_id": masked_text(entry.authority.approval_id, "whole"),
        "reason": masked_text(entry.reason, numbers),
        "outcome": masked_text(entry.outcome, "whole"),
        "error_kind": masked_text(entry.error_kind, "whole"),
    }


def result_fields(entry: Entry, ending: Ending, duration: float, numbers: Numbers) -> Fields:
    """Return the fields that say how it ended, after `duration` seconds.

    The arguments and the decision are in the record before, and are not repeated.
    """
    return {
        **_identity(entry, numbers),
        "sid": masked_text(ending.sid or entry.sid, "whole"),
        "outcome": masked_text(ending.outcome, "whole"),
        "error_kind": masked_text(ending.error_kind, "whole"),
        "http_status": ending.http_status,
        "request_id": masked_text(ending.request_id, "whole"),
        "duration_ms": round(duration * 1000),
    }


def _identity(entry: Entry, numbers: Numbers) -> Fields:
    """Return the fields that the records before and after have in common."""
    return {
        "principal": masked_text(entry.principal, numbers),
        "tool": entry.operation.name,
        "action": entry.action,
        "effect": entry.operation.effect,
        "account_sid": masked_text(entry.account_sid, "whole"),
        "sid": masked_text(entry.sid, "whole"),
        "trace_id": masked_text(entry.trace_id, "whole"),
        "mcp_request_id": masked_text(entry.request_id, "whole"),
    }


def timestamp(seconds: float) -> str:
    """Return an epoch time as ISO 8601 UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


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
class Record:
    """A record as it is written: one line of ASCII, without its line feed."""

    line: str
    fields: Mapping[str, Json]
    link: Link


def chain(fields: Mapping[str, Json], last: Link) -> Record:
    """Return the record of `fields` that follows `last`. What is None or empty is left out."""
    known: Fields = {**fields, "seq": last.seq + 1, "prev": last.hash}
    record = {name: known[name] for name in ORDER if known.get(name) not in (None, "")}
    digest = hashlib.sha256(encode(record).encode()).hexdigest()
    record["hash"] = digest
    return Record(encode(record), record, Link(last.seq + 1, digest))


def parse(line: bytes) -> Fields | None:
    """Return the JSON object in `line`, whether or not it is an intact record; None if none is."""
    try:
        record = _parsed(line)
    except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError too
        return None
    return cast("Fields", record) if isinstance(record, dict) else None


def link_of(record: Mapping[str, Json]) -> Link | None:
    """Return the link that a record claims to be, right or wrong; None if it claims none."""
    seq, digest = record.get("seq"), record.get("hash")
    if type(seq) is int and isinstance(digest, str):
        return Link(seq, digest)
    return None


def is_intact(line: bytes, record: Mapping[str, Json]) -> bool:
    """Whether `line`, of which `record` was parsed, is exactly what was written."""
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
