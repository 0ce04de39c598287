"""What in a call's instructions decides how long it lives."""

from xml.etree import ElementTree as ET

_MOST_DIGITS = 6


def hangs_up_after(twiml: str) -> float | None:
    """After how many seconds these instructions hang up; None if they leave that to the others.

    `<Pause>` takes its time, any other verb none.
    """
    try:
        response = ET.fromstring(twiml)  # noqa: S314 - 4000 characters at most, and expat is on guard
    except ET.ParseError:
        return None
    seconds = 0.0
    for verb in response:
        if verb.tag == "Hangup":
            return seconds
        if verb.tag == "Pause":
            seconds += _length(verb.get("length", "1"))
    return None


def _length(text: str) -> int:
    is_sane = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
    return int(text) if is_sane else 0
