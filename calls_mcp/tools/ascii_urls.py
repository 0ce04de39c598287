"""URLs in ASCII: find the character that makes a URL invalid, and encode it."""

import re
from urllib.parse import quote

import idna

from calls_mcp.observability.redaction import first_invisible

_URL = re.compile(r"(https?://)([^/?#]*@)?([^/?#]*)(.*)", re.IGNORECASE)
_NOT_ALLOWED = re.compile(r"[^!-~]|\\")
_TO_ENCODE = re.compile(r"[^!-~]|%(?![0-9A-Fa-f]{2})")


def instead_of_character(text: str) -> str:
    """Return what to send instead of the first character that URLs must not contain.

    Return an empty text if there is no such character, or if `text` is no URL at all.
    """
    url, found = _URL.fullmatch(text), _NOT_ALLOWED.search(text)
    if not url or not found:
        return ""
    character = found[0]
    in_host = url.start(3) <= found.start() < url.end(3)
    if character == "\\" or (in_host and character.isascii()):
        return f'without "{character}"'
    if in_host:
        return f'with the host name in Punycode (xn--) instead of "{character}"'
    return f'with {quote(character, errors="replace")} instead of "{character}"'


def ascii_url(text: str) -> str:
    """Return a URL in ASCII: its host name in Punycode, and the rest percent-encoded.

    Raises:
        ValueError: `text` is no URL, or has an invisible character or no valid host name.
    """
    url = _URL.fullmatch(text)
    if not url or first_invisible(text):
        raise ValueError("not a URL that can be written in ASCII")
    scheme, user, place, rest = url.groups(default="")
    if not place.isascii():
        host, colon, port = place.partition(":")
        place = idna.encode(host, uts46=True).decode() + colon + port
    return f"{scheme.lower()}{_encoded(user)}{place}{_encoded(rest)}"


def _encoded(text: str) -> str:
    return _TO_ENCODE.sub(lambda found: quote(found[0]), text)
