"""The state of a call that must not change between its preview and the change."""

from calls_mcp.observability.redaction import quoted
from calls_mcp.tools.call_summary import LONGEST_ADDRESS
from calls_mcp.tools.outcome import CallSummary
from calls_mcp.tools.wording import plain


def status_of(call: CallSummary | None) -> str:
    """Return the status of a call in words, such as "in progress"; None is a new one."""
    status = call.status if call else "not placed yet"
    return plain(status) if status else "in an unknown state"


def state_of(call: CallSummary) -> str:
    """Return the state of a call in words, with the parties quoted, as strangers chose them."""
    return f"{status_of(call)} from {_quoted(call.from_)} to {_quoted(call.to)}"


def difference(state: str, now: CallSummary) -> str:
    """Return what changed since a preview showed this `state`; empty if nothing."""
    before = state.partition("\n")[0]
    if before == state_of(now):
        return ""
    return f"The call has changed: it was shown as {before}, and it is {state_of(now)}."


def _quoted(address: str | None) -> str:
    return quoted(address, LONGEST_ADDRESS) if address else "unknown"
