"""The fields of a record, and the hash that chains it to the record before it."""

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
    "asked",
    "approved",
    "denied",
    "allowed",
    "refused",
    "declined",
    "expired",
    "withdrawn",
    "replayed",
    "void",
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
    """An attempt to change something, and the decision about it.

    `arguments` are unmasked; the record masks them. `rule` is the policy rule that decided, such as
    `confirm.place`. `sid` is the call, if it exists yet. `reason` is the operator's. `request_id`
    is also in the log lines about the MCP request. Empty fields are left out of the record.
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
    """The result of a change. `sid` is that of a new call; status and request id are the API's."""

    outcome: str
    error_kind: str = ""
    http_status: int | None = None
    sid: str = ""
    request_id: str = ""


def decision_fields(entry: Entry, numbers: Numbers) -> Fields:
    """Return the fields of the attempt and the decision."""
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
    """Return the fields of the result, after `duration` seconds.

    The first record has the arguments and the decision.
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
    """Return the fields that both records of a change have."""
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
"""The fields of a record, in order."""


@dataclass(frozen=True, slots=True)
class Link:
    """A record's place in the chain: its number, from 1, and its hash."""

    seq: int
    hash: str


START = Link(0, "0" * 64)
"""The link before the first record."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record as written: one line of ASCII, without the line feed."""

    line: str
    fields: Mapping[str, Json]
    link: Link


def chain(fields: Mapping[str, Json], last: Link) -> Record:
    """Return the record of `fields` that follows `last`. None and empty values are left out."""
    known: Fields = {**fields, "seq": last.seq + 1, "prev": last.hash}
    record = {name: known[name] for name in ORDER if known.get(name) not in (None, "")}
    digest = hashlib.sha256(encode(record).encode()).hexdigest()
    record["hash"] = digest
    return Record(encode(record), record, Link(last.seq + 1, digest))


def parse(line: bytes) -> Fields | None:
    """Return the JSON object in `line`, even if it is not an intact record; None if not JSON."""
    try:
        record = _parsed(line)
    except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError too
        return None
    return cast("Fields", record) if isinstance(record, dict) else None


def link_of(record: Mapping[str, Json]) -> Link | None:
    """Return the link that a record claims to have, which may be wrong; None if it has none."""
    seq, digest = record.get("seq"), record.get("hash")
    if type(seq) is int and isinstance(digest, str):
        return Link(seq, digest)
    return None


def is_intact(line: bytes, record: Mapping[str, Json]) -> bool:
    """Return whether `line` (`record` parsed) is exactly as written."""
    end = f',"hash":{json.dumps(record.get("hash"))}}}'.encode()
    if not line.endswith(end):
        return False
    rest = line.removesuffix(end) + b"}"
    try:
        digest = hashlib.sha256(rest).hexdigest()
        return record.get("hash") == digest and encode(record).encode() == line
    except (ValueError, RecursionError):  # a NaN, or nested too deeply
        return False


def encode(record: Mapping[str, Json]) -> str:
    """Return the canonical form of a record: compact JSON in ASCII, so that it is one line."""
    return json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _parsed(line: bytes) -> object:
    try:
        return from_json(line)
    except ValueError:  # half of a surrogate pair, which the standard library accepts
        return json.loads(line)
