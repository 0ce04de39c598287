"""Normalize SIP addresses (RFC 3261) and the numbers in them (RFC 3966)."""

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote

_URI = re.compile(
    r"(?P<scheme>sips?):(?P<user>[^@]+)@(?P<host>\[[^\]]*\]|[^\[\]:;?]+)(?::(?P<port>[0-9]+))?"
    r"(?P<parameters>;[^?]*)?(?P<headers>\?.*)?",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\+?[0-9]+")
_SEPARATORS = re.compile(r"[\s().-]+")
_USER = re.compile(r"(\+[1-9][0-9]*|[^\s@:/\\?;<>\"%+][^\s@:/\\?;<>\"%]*)")
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")
_REROUTING = ("maddr", "route")  # a parameter and a header that name another host


@dataclass(frozen=True, slots=True)
class SipAddress:
    """A SIP address, decoded: `user` without the separators in a number, `host` in lower case.

    `is_rerouted` says that a parameter may send the call to another host.
    """

    user: str
    host: str
    is_rerouted: bool

    @property
    def number(self) -> str:
        """Return the number in `user`, if any, with a + if it had one or an exit code."""
        if not _NUMBER.fullmatch(self.user):
            return ""
        for exit_code in ("00", "011"):
            if self.user.startswith(exit_code):
                return f"+{self.user.removeprefix(exit_code)}"
        return self.user

    def __str__(self) -> str:
        """Return it as user@host, as the policy's patterns match it."""
        return f"{self.user}@{self.host}"


def parse_sip(address: str) -> SipAddress | None:
    """Return what `address` (sip:… or sips:…) means; None if it is ambiguous."""
    uri = _URI.fullmatch(address)
    if uri is None:
        return None
    try:
        user = unicodedata.normalize("NFKC", unquote(uri["user"], errors="strict"))
        rest = unquote((uri["parameters"] or "") + (uri["headers"] or ""), errors="strict")
    except UnicodeDecodeError:
        return None
    # Only a telephone number has parameters before the @.
    if _NUMBER.fullmatch(plain := _SEPARATORS.sub("", user.partition(";")[0])):
        user = plain
    host = unquote(uri["host"]).lower().removesuffix(".")
    if not (_USER.fullmatch(user) and user.isprintable() and _HOST.fullmatch(host)):
        return None
    names = {part.partition("=")[0].strip().lower() for part in re.split("[;?&]", rest)}
    return SipAddress(user, host, is_rerouted=bool(names & {*_REROUTING}))
