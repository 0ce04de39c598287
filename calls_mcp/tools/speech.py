"""TwiML that speaks a text."""

from html import escape

_RETURN = "&#13;"  # XML parsers read a bare one as a line feed


def spoken(text: str) -> str:
    """Return TwiML that says exactly `text`, which has no control characters except whitespace."""
    escaped = escape(text, quote=False).replace("\r", _RETURN)
    return f"<Response><Say>{escaped}</Say></Response>"
