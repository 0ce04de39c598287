"""Logs on stderr, as text or JSON lines."""

import json
import logging
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, cast

from calls_mcp.observability import stderr
from calls_mcp.observability.current_request import current_ids
from calls_mcp.observability.redaction import one_line

_LONGEST = 1000  # characters of a message

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def configure_logs(form: Literal["text", "json"], level: str) -> None:
    """Log to stderr in this form, from this level up.

    Of libraries, only warnings and errors are logged, because their other messages have whole URLs
    and phone numbers.
    """
    handler = logging.StreamHandler(stderr.NonBlockingStream())
    handler.setFormatter(JsonLines() if form == "json" else Text("calls-mcp: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("calls_mcp").setLevel(level)
    if level == "ERROR":
        logging.getLogger().setLevel(level)
    logging.captureWarnings(capture=True)


@contextmanager
def silenced() -> Generator[None]:
    """Log nothing while the context is open, because the caller reports failures itself."""
    logger = logging.getLogger("calls_mcp")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class Text(logging.Formatter):
    """Format a record as a line of text, and its exception without the message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the base class
        """Return the message as one line of printable characters."""
        record.message = one_line(record.message, _LONGEST)
        return super().formatMessage(record)

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802  # the base class's name
        """Return the exception without its message, because that may contain arguments."""
        return _format_exception(ei)


class JsonLines(logging.Formatter):
    """Format a record as a line of JSON, with the ids of the current request, trace and span."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of ASCII."""
        fields = cast("dict[str, object]", getattr(record, "fields", {}))
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": one_line(record.getMessage(), _LONGEST),
            **current_ids(),
            **fields,
        }
        if record.exc_info:
            line["exception"] = _format_exception(record.exc_info)
        return json.dumps(line)


def _format_exception(info: _ExcInfo) -> str:
    """Return an exception's type and frames, innermost last, without message, source or values."""
    kind, _, frames = info
    places = [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(frames)
    ]
    return f"{kind.__name__ if kind else 'nothing'} at {' > '.join(places)}"
