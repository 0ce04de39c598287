"""Audit records in sentences."""

from collections.abc import Mapping

from calls_mcp.errors import OutcomeUnknown
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.phone_number import formatted

_VERBS = {
    "place": "place a call",
    "redirect": "redirect a call",
    "hang_up": "hang up",
    "modify": "change a call",
    "delete": "delete a call's record",
}
_SENTENCES = {
    "asked": "{who} asked to {verb}",
    "allowed": "{who} was allowed to {verb}",
    "before": "{whose} request to {verb} was sent to the API",
    "approved": "{decider} approved {whose} request to {verb}",
    "declined": "{decider} denied {whose} request to {verb}",
    "denied": "{whose} request to {verb} was refused",
    "expired": "{whose} request to {verb} expired",
    "withdrawn": "{whose} request to {verb} was withdrawn",
    "replayed": "{who} repeated a request to {verb}, and nothing was sent",
    "void": "{deciders} decision about {whose} request to {verb} was not used",
    "done": "The API accepted {whose} request to {verb}",
    "found": "A lookup confirmed {whose} request to {verb}",
    "unknown": "The result of {whose} request to {verb} is unknown",
    "failed": "{whose} request to {verb} failed",
}
"""A sentence for each step. Only the first record of a change has its arguments."""


def step(record: Mapping[str, Json]) -> str:
    """Return the step of a change that a record is about, such as `asked`, `before` or `failed`."""
    phase = record.get("phase")
    if phase in ("after", "recovered"):
        if record.get("outcome") == "done":
            return "done" if phase == "after" else "found"
        return "unknown" if record.get("error_kind") == OutcomeUnknown.kind else "failed"
    return str(phase if phase == "before" else record.get("decision", phase))


def sentence(record: Mapping[str, Json]) -> str:
    """Return what a record says, without its reason. The record may have been edited."""
    name = step(record)
    if not record:
        return "This record can't be read"
    if name not in _SENTENCES:
        return f"{record.get('principal', 'Unknown')}: {name}"
    arguments = record.get("arguments")
    to = arguments.get("to") if isinstance(arguments, dict) else None
    action = str(record.get("action"))
    verb = f"call {formatted(str(to))}" if to else _VERBS.get(action, action)
    who, decider = (
        str(record.get("principal", "Unknown")),
        str(record.get("decided_by", "The user")),
    )
    return _SENTENCES[name].format(
        who=who, whose=_possessive(who), decider=decider, deciders=_possessive(decider), verb=verb
    )


def _possessive(name: str) -> str:
    return f"{name}'" if name.endswith("s") else f"{name}'s"
