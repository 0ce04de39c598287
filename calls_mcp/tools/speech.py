"""TwiML that speaks a text."""

from xml.sax.saxutils import escape

_RETURN = {"\r": "&#13;"}  # XML parsers read a bare one as a line feed


def spoken(text: str) -> str:
    """Return TwiML that says exactly `text`, which has no control characters except whitespace."""
    return f"<Response><Say>{escape(text, _RETURN)}</Say></Response>"
