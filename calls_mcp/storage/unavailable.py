"""What a failing store means for an invocation."""

import errno
import logging
from collections.abc import Generator
from contextlib import contextmanager

from calls_mcp.errors import InvocationError

_log = logging.getLogger(__name__)

_OF_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)
_FOR_THE_OPERATOR = (
    "Call again in a little while. If it goes on, the operator must check what CALLS_MCP_STATE_URL "
    "names: that it runs, can be reached, and can be written to."
)


class StoreUnavailable(InvocationError):
    """The store could not be asked, so nothing was sent."""

    kind = "store_unavailable"
    retryable = True
    for_operator = ""
    """Which store can't be used, why, and which setting names another."""

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
    where: str, failures: tuple[type[Exception], ...], meaning: type[StoreUnavailable]
) -> Generator[None]:
    """Turn each of these `failures` of the store at `where` into its `meaning`, and log it."""
    try:
        yield
    except failures as failure:
        unavailable = meaning()
        unavailable.for_operator = explained(where, failure)
        _log.warning("%s", unavailable.for_operator)
        raise unavailable from failure


def explained(where: str, failure: Exception) -> str:
    """Return, for the operator, why the store at `where` can't be used and how to use another."""
    is_missing = isinstance(failure, OSError) and failure.errno in _OF_PLACE
    more = " Its folder must exist, and both must be writable." if is_missing else ""
    return (
        f"The state store {where} can't be used: {reason_of(failure)}.{more} "
        "Set CALLS_MCP_STATE_URL to use another."
    )


def reason_of(failure: BaseException) -> str:
    """Return what an error says, without the number of an operating system's error."""
    return (isinstance(failure, OSError) and failure.strerror) or str(failure)
