"""Normalize SIP addresses (RFC 3261) and the numbers in them (RFC 3966)."""

import re
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import unquote

SHORTEST_SUBSCRIBER = 7  # digits: +290, +683 and +690 with four more
LONGEST_EMERGENCY = 9  # digits, calling code included: +227 723141

_URI = re.compile(
    r"(?P<scheme>sips?):(?P<user>[^@]+)@(?P<host>\[[^\]]*\]|[^\[\]:;?]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<parameters>;[^?]*)?(?P<headers>\?\S*)?",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\+?[0-9]+")
SEPARATORS = re.compile(r"[\s().-]+")
# 0 or 9 may be for an outside line.
EMERGENCY = re.compile(r"(\+|00|011|0011)?[09]?(112|911|999)")
# Codes that a gateway obeys before it dials, such as *67, *31# and #31#.
_CODE = re.compile(r"\A[*#]+([0-9]{2,3}[*#]+|[0-9]{2})")
_LONGEST_CODE, _USUAL_CODE = 4, 2  # digits
_RUN = re.compile(r"([*#]*)(\+?[0-9]+)")
_MOST_NUMBERS = 20
_LONGEST_USER = 128  # characters; longer ones would take long to check
_FILLING = re.compile(r"[\s.-]+")  # SEPARATORS, but without parentheses
# What ends the digits that are dialed, or comes before them: punctuation, and p, w, x or ext.
_PAUSE = r"(?:[^\w*#+]|(?<![^\W\d_])(?:[ptwx]|ext)+(?![^\W\d_]))"
_PAUSES = re.compile(rf"_|{_PAUSE}")
_NUMBER_WITH_PAUSE = re.compile(
    rf"[0-9]{{{SHORTEST_SUBSCRIBER},}}[*#]*{_PAUSE}|{_PAUSE}\+?[0-9]{{{SHORTEST_SUBSCRIBER},}}"
)
# Without ; because parameters of a number can name another one: 5551234;phone-context=+1900.
_USER = re.compile(r"(\+[1-9][0-9]*[*#]*|[^\s@:/\\?;<>\"%+][^\s@:/\\?;<>\"%]*)")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_LARGEST_PORT = 65535
_PARAMETERS = re.compile(r'[^@,<>"\s]*')
_HEADERS = re.compile(r'[^@,<>"]*')
# Others could claim who calls or is called, or route the call.
HARMLESS_HEADER = re.compile(r"x-[a-z0-9_.-]+|user-to-user")


@dataclass(frozen=True, slots=True)
class SipAddress:
    """A SIP address, decoded: `user` without the separators in a number, `host` in lower case.

    `spelled` is the user with separators. An IPv6 address is in its shortest form. `is_rerouted`
    says that a parameter may send the call to another host.
    """

    user: str
    spelled: str
    host: str
    is_rerouted: bool

    @property
    def number(self) -> str:
        """Return the number that a gateway most likely dials, as digits with or without a +."""
        return _number(self._dialed)

    @property
    def numbers(self) -> frozenset[str]:
        """Return all numbers that a gateway may dial, as digits with or without a +."""
        found = _runs(self._dialed)
        if self._has_letters:
            found = {number for number in found if number.startswith("+")} | _runs(self._joined)
        return frozenset({*found, self.number} - {""})

    @property
    def parts(self) -> frozenset[str]:
        """Return all digits that a gateway may dial if it stops at letters or punctuation."""
        texts = (self._dialed, self._joined, _FILLING.sub("", self.spelled.lower()))
        return frozenset[str]().union(*map(_runs, texts))

    @property
    def has_pause(self) -> bool:
        """Return whether a number has a pause or suffix, so that a part of it may be dialed."""
        return bool(_NUMBER_WITH_PAUSE.search(SEPARATORS.sub("", self.spelled.lower())))

    @property
    def is_doubtful(self) -> bool:
        """Return whether a gateway may dial a number, and it isn't certain which."""
        runs = [run.lstrip("+") for _, run in _RUN.findall(self._dialed)]
        if self._has_letters:
            return any(len(run) >= SHORTEST_SUBSCRIBER for run in runs)
        return bool(runs) and not _NUMBER.fullmatch(self._dialed.rstrip("*#"))

    @property
    def _has_letters(self) -> bool:
        return any(c.isalpha() for c in self._dialed)

    @property
    def _dialed(self) -> str:
        """Return what is left of `user` without punctuation."""
        kept = (c for c in self.user.lower() if c.isalnum() or c in "*#+")
        return "".join(kept)

    @property
    def _joined(self) -> str:
        """Return the digits of `user` without the pauses between them; empty if it has letters."""
        joined = _PAUSES.sub("", self.spelled.lower())
        return "" if any(c.isalpha() for c in joined) else joined

    def __str__(self) -> str:
        """Return it as user@host, as the policy's patterns match it."""
        return f"{self.user}@{self.host}"


def parse_sip(address: str) -> SipAddress | None:
    """Return what `address` (sip:… or sips:…) means; None if it is ambiguous."""
    uri = _URI.fullmatch(address)
    if uri is None or len(uri["user"]) > _LONGEST_USER:
        return None
    try:
        user = _plain(unquote(uri["user"], errors="strict"))
        parameters, headers = (
            unquote(part or "", errors="strict") for part in uri.group("parameters", "headers")
        )
    except UnicodeDecodeError:
        return None
    if not (_is_port(uri["port"]) and _is_clear(parameters, headers)):
        return None
    spelled, plain = user, SEPARATORS.sub("", user)
    if _number(plain):
        user = plain
    host = _host(unquote(uri["host"]))
    if not (host and _USER.fullmatch(user) and user.isprintable()):
        return None
    is_rerouted = "maddr" in _names(re.split("[;?&]", parameters + headers))
    parsed = SipAddress(user, spelled, host, is_rerouted=is_rerouted)
    return parsed if len(parsed.numbers) <= _MOST_NUMBERS else None  # each is looked up


def _is_port(text: str | None) -> bool:
    return text is None or 0 < int(text) <= _LARGEST_PORT


def _is_clear(parameters: str, headers: str) -> bool:
    """Return whether all programs understand parameters and headers (decoded) in the same way."""
    if not (_PARAMETERS.fullmatch(parameters) and _HEADERS.fullmatch(headers)):
        return False
    names = _names(headers[1:].split("&")) if headers else ()
    return (parameters + headers).isprintable() and all(map(HARMLESS_HEADER.fullmatch, names))


def _names(fields: Iterable[str]) -> set[str]:
    return {field.partition("=")[0].strip().lower() for field in fields}


def _plain(user: str) -> str:
    """Return a text in its compatibility form (NFKC), with the digits of all scripts as ASCII."""
    normal = unicodedata.normalize("NFKC", user)
    return "".join(str(unicodedata.decimal(c, c)) for c in normal)


def _host(text: str) -> str:
    """Return the canonical spelling of a host; empty if it is not valid."""
    if text.startswith("["):
        with suppress(ValueError):
            address = IPv6Address(text[1:-1])
            return "" if address.scope_id else f"[{address}]"
        return ""
    host = text.lower().removesuffix(".")
    return host if _HOST.fullmatch(host) else ""


def _runs(text: str) -> set[str]:
    """Return the digits in a text, also without a code that they begin with (911 of *67911)."""
    found: set[str] = set()
    for place, (mark, number) in enumerate(_RUN.findall(text)):
        found.add(number)
        longest = _LONGEST_CODE if mark and number.isdigit() else 0
        for length in range(1, longest + 1):
            rest = number[length:]
            is_emergency = EMERGENCY.fullmatch(rest) and (not place or length == _USUAL_CODE)
            if is_emergency or len(rest) >= SHORTEST_SUBSCRIBER:
                found.add(rest)
    return found


def _number(text: str) -> str:
    """Return a number without the code before it and # after it; empty if there is no number."""
    number = _CODE.sub("", text.lower().removeprefix("tel").rstrip("*#"))
    return number if _NUMBER.fullmatch(number) else ""
