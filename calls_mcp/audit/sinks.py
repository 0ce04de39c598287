"""Where records go."""

import os
import sqlite3
import sys
from collections.abc import Mapping
from typing import Protocol

from calls_mcp.audit.chain import START, seal
from calls_mcp.audit.locking import PATIENCE
from calls_mcp.catalog import Json
from calls_mcp.errors import InvocationError

FAILURES = (OSError, ValueError, sqlite3.Error)
"""What a sink raises if it can't write; ValueError is what a closed stream raises."""


class AuditUnavailable(InvocationError):
    """The record can't be written, so nothing may be sent: `reason` says why, to the operator."""

    kind = "audit_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(
            "Nothing was sent: the audit record could not be written.",
            f"Ask the operator of this server to look at its audit log ({reason}). Until then "
            "changes are refused; reading calls goes on working.",
        )


class Sink(Protocol):
    """Keeps records, each chained to the last one there. Used by one thread at a time."""

    def append(self, fields: Mapping[str, Json], patience: float = PATIENCE) -> None:
        """Keep a record for good before returning, `patience` seconds after the start at most.

        Raises:
            OSError: It can't be written; nothing of it is left behind, where that can be helped.
            sqlite3.Error: Likewise.
        """
        ...

    def close(self) -> None:
        """Let go of what is held open."""
        ...


class Stderr:
    """Writes records to stderr, in a chain that begins anew with each process."""

    def __init__(self) -> None:
        self._last = START

    def append(self, fields: Mapping[str, Json], patience: float = PATIENCE) -> None:  # noqa: ARG002  # nobody else writes there
        """Write a record as one line."""
        sealed = seal(fields, self._last)
        if sys.stderr is None:  # so under pythonw
            raise OSError("there is no stderr")
        sys.stderr.write(sealed.line + "\n")
        sys.stderr.flush()
        self._last = sealed.link

    def close(self) -> None:
        """Stderr stays open."""


def reason_of(error: Exception) -> str:
    """Why a sink can't write, in words that name no path."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error)
