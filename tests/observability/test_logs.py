"""The format of log lines."""

import json
import logging
import sys

import pytest

from calls_mcp.observability.logs import JsonLines, Text


def record(message: str, *arguments: object) -> logging.LogRecord:
    """Return a library's warning, with the exception that is being handled, if any."""
    raised = sys.exc_info() if sys.exception() else None
    return logging.LogRecord("library", logging.WARNING, __file__, 1, message, arguments, raised)


@pytest.mark.parametrize("formatter", [JsonLines(), Text("%(message)s")])
def test_an_exception_is_logged_with_type_and_frames_but_no_message(
    formatter: logging.Formatter,
) -> None:
    line = ""
    try:
        int("+15005550177 or so")
    except ValueError:
        line = formatter.format(record("it failed"))
    assert "it failed" in line
    assert "ValueError at test_logs.py:" in line
    assert "15005550177" not in line


def test_a_message_in_plain_text_is_one_line_that_controls_no_terminal() -> None:
    line = Text("calls-mcp: %(message)s").format(record("said %s", "x\ny\u2028\x1b[31m\u202e"))
    assert line == "calls-mcp: said x y [31m"


def test_a_message_is_logged_on_one_line() -> None:
    line = JsonLines().format(record("said %s", 'x\n{"level": "ERROR"}\u2028\x1b[31m'))
    assert line.splitlines() == [line]
    assert json.loads(line)["message"] == 'said x {"level": "ERROR"} [31m'
    assert line.isascii()
