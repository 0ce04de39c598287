"""What a failing store means for an invocation."""

import logging
from collections.abc import Generator
from contextlib import contextmanager

from calls_mcp.errors import InvocationError

_log = logging.getLogger(__name__)

_FOR_THE_OPERATOR = (
    "Call again in a little while. If it goes on, the operator must check what CALLS_MCP_STATE_URL "
    "names: that it runs, can be reached, and can be written to."
)


class StoreUnavailable(InvocationError):
    """The store could not be asked, so nothing was sent."""

    kind = "store_unavailable"
    retryable = True

    def __init__(
        self,
        message: str = "Nothing was sent: the state store can't be reached.",
        hint: str = _FOR_THE_OPERATOR,
    ) -> None:
        super().__init__(message, hint)


class Unrecorded(StoreUnavailable):
    """The store could not be told what has been done: it says nothing of whether it was.

    Whoever acted knows the outcome, and should report that rather than this.
    """

    retryable = False

    def __init__(self) -> None:
        super().__init__(
            "What became of this could not be recorded: the state store can't be reached.",
            "Do not call again before fetch_call or list_calls shows what became of it. The "
            "operator must check what CALLS_MCP_STATE_URL names.",
        )


@contextmanager
def reaching(
    failures: tuple[type[Exception], ...], meaning: type[StoreUnavailable]
) -> Generator[None]:
    """Turn each of these `failures` of a backend into its `meaning`, and log it."""
    try:
        yield
    except failures as failure:
        _log.warning("The state store failed: %s: %s", type(failure).__name__, failure)
        raise meaning from failure
