"""What a record says: `Entry` and `Ending` as its fields."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from calls_mcp.audit.chain import Fields
from calls_mcp.audit.masking import Numbers, masked_arguments, masked_text
from calls_mcp.tools.catalog import Json, Operation

if TYPE_CHECKING:
    from calls_mcp.storage.models import Action  # which would load jsonschema for `audit verify`

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
    action: "Action"
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


def decided(entry: Entry, numbers: Numbers) -> Fields:
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


def ended(entry: Entry, ending: Ending, duration: float, numbers: Numbers) -> Fields:
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
