"""What a failing store means for an invocation."""

import errno
import logging
from collections.abc import Generator
from contextlib import contextmanager

from calls_mcp.errors import StoreUnavailable

_log = logging.getLogger(__name__)

_OF_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def reaching(
    where: str, failures: tuple[type[Exception], ...], meaning: type[StoreUnavailable]
) -> Generator[None]:
    """Turn each of these `failures` of the store at `where` into its `meaning`, and log it."""
    try:
        yield
    except failures as failure:
        unavailable = meaning(explained(where, failure))
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
