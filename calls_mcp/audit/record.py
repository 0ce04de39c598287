"""`Entry` and `Ending` → the fields of a record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from calls_mcp.audit.chain import Fields
from calls_mcp.audit.discretion import Numbers, discreet, plain
from calls_mcp.catalog import Json, Operation

if TYPE_CHECKING:
    from calls_mcp.guard import Action  # which would load jsonschema for `audit verify`

Decision = Literal[
    "asked", "approved", "allowed", "denied", "declined", "expired", "replayed", "void"
]
ConfirmedBy = Literal["elicitation", "token", "operator", "none"]


@dataclass(frozen=True, slots=True)
class Authority:
    """How a change was confirmed; if by the operator, their `name` and which approval it was."""

    by: ConfirmedBy = "none"
    name: str = ""
    approval_id: str = ""


NOBODY = Authority()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An attempt to change something, and what was decided about it.

    `arguments` are as they were given: the record makes them discreet. `rule` is what decided, a
    rule of the policy or `confirm.place` and the like; `sid` the call, where there is one yet.
    `reason` is the operator's; `request_id` is the one that log lines about the MCP request bear.
    What is not known stays empty, and is then absent from the record.
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
    """What became of a change; `sid` is that of a call just placed.

    `http_status` is the API's, and `request_id` its name for the request.
    """

    outcome: str
    error_kind: str = ""
    http_status: int | None = None
    sid: str = ""
    request_id: str = ""


def decided(entry: Entry, numbers: Numbers) -> Fields:
    """The fields that say what was attempted and decided."""
    return {
        **identity(entry, numbers),
        "arguments": discreet(entry.operation, entry.arguments, numbers),
        "decision": entry.decision,
        "rule": plain(entry.rule, numbers),
        "confirmed_by": entry.authority.by,
        "decided_by": plain(entry.authority.name, "whole"),
        "approval_id": plain(entry.authority.approval_id, "whole"),
        "reason": plain(entry.reason, numbers),
        "outcome": plain(entry.outcome, "whole"),
        "error_kind": plain(entry.error_kind, "whole"),
    }


def ended(entry: Entry, ending: Ending, duration: float, numbers: Numbers) -> Fields:
    """The fields that say what became of it, after `duration` seconds.

    The arguments and the decision are those of the record before, and are not told again.
    """
    return {
        **identity(entry, numbers),
        "sid": plain(ending.sid or entry.sid, "whole"),
        "outcome": plain(ending.outcome, "whole"),
        "error_kind": plain(ending.error_kind, "whole"),
        "http_status": ending.http_status,
        "request_id": plain(ending.request_id, "whole"),
        "duration_ms": round(duration * 1000),
    }


def identity(entry: Entry, numbers: Numbers) -> Fields:
    """The fields that a record before and one after have in common."""
    return {
        "principal": plain(entry.principal, numbers),
        "tool": entry.operation.name,
        "action": entry.action,
        "effect": entry.operation.effect,
        "account_sid": plain(entry.account_sid, "whole"),
        "sid": plain(entry.sid, "whole"),
        "trace_id": plain(entry.trace_id, "whole"),
        "mcp_request_id": plain(entry.request_id, "whole"),
    }


def moment(seconds: float) -> str:
    """An epoch time as ISO 8601 UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
