"""Mask secrets, and phone numbers if configured, in the arguments that are recorded."""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from itertools import islice
from typing import Literal

from calls_mcp.observability.redaction import MASK, one_line
from calls_mcp.tools.catalog import Json, Operation, Parameter, address_kind

Numbers = Literal["whole", "masked"]
"""How phone numbers are recorded: whole, or as `+1•••12` (country code and last two digits)."""

LONGEST_TEXT = 256  # characters
_MOST_ARGUMENTS = 64
_MOST_ITEMS = 16  # of a list
_LONGEST_NAME = 64
_LARGEST = 10**15
_DIGEST = 16  # hex digits
_TELLING = 6  # a number needs this many digits after the country code to show the last two

# A keyed digest, because a plain one of a short password could be guessed. The key exists only in
# this process, and digests show whether two tool calls used the same value.
_KEY = secrets.token_bytes(32)

_URL = (
    r"(?P<scheme>\b[a-z][a-z0-9+.-]{0,15}://)(?P<user>[^\s/?#]*@)?"
    r"(?P<host>[^\s/?#]*)(?P<path>[^\s?#]*)(?P<query>[?#]\S*)?"
)
_NUMBER = (
    r"(?P<plus>(?:\+|%2b)[0-9][0-9 ().-]{2,20}[0-9])"
    r"|(?<![0-9a-z])\(?[0-9][0-9 ().-]{5,20}[0-9](?![0-9a-z])"
)
_URL_OR_NUMBER = re.compile(f"{_URL}|{_NUMBER}", re.IGNORECASE)
_ANY_NUMBER = re.compile(_NUMBER, re.IGNORECASE)
_LOOSE_NUMBER = re.compile(r"\+?[0-9]{7,}|\+[0-9]+")  # in an address, also next to letters
_DATE = re.compile(r"[12][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")  # also in API paths
_COUNTRY = re.compile(r"[17]|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|[0-9]{3}|[0-9]+")
_SIP = re.compile(
    r"(?P<scheme>sips?:)(?P<user>[^@]*)@(?P<host>[^;?]*)(?P<parameters>;[^?]*)?(?P<headers>\?.*)?",
    re.IGNORECASE,
)
_FEWEST_DIGITS = 7  # of a number without a +


def masked_arguments(
    operation: Operation, values: Mapping[str, Json], numbers: Numbers
) -> dict[str, Json]:
    """Return `values`, by argument name, masked for the record.

    Secrets, keys to press and TwiML become digests: `sha256:` and 16 hex digits. Only digests of
    TwiML can be compared between processes. Credentials and queries in URLs are masked, and phone
    numbers if `numbers` is "masked". A text becomes one line of at most 256 characters. An unknown
    argument is treated as a secret, because it may be one with a misspelled name.
    """
    return {
        one_line(name, _LONGEST_NAME): _value(operation.parameters.get(name), value, numbers)
        for name, value in islice(values.items(), _MOST_ARGUMENTS)
    }


def masked_text(text: str, numbers: Numbers) -> str:
    """Return text as one line, with URLs and numbers masked as in arguments."""
    return one_line(_without_details(_cleaned(text), numbers), LONGEST_TEXT)


def _value(parameter: Parameter | None, value: Json, numbers: Numbers) -> Json:
    if parameter is None or parameter.secret or parameter.location == "own":
        return _keyed_digest(value)
    if parameter.type.private:
        return _keyed_digest(value)
    if parameter.type.multiline:
        return f"sha256:{hashlib.sha256(_bytes(value)).hexdigest()[:_DIGEST]}"
    if isinstance(value, list):
        return [_item(item, numbers) for item in value[:_MOST_ITEMS]]
    return _item(value, numbers)


def _item(value: Json, numbers: Numbers) -> Json:
    match value:
        case None | bool():
            return value
        case str():
            return _text(value, numbers)
        case int() | float():
            return value if abs(value) < _LARGEST else "a number out of range"
        case _:
            return "a list" if isinstance(value, list) else "an object"


def _text(text: str, numbers: Numbers) -> str:
    line = _cleaned(text)
    if address_kind(line) in ("phone number", "SIP address", "client") or _is_address(line):
        return one_line(_party(line, numbers), LONGEST_TEXT)
    return one_line(_without_details(line, numbers), LONGEST_TEXT)


def _cleaned(text: str) -> str:
    """Return the text as one line, not truncated, because masking must come before truncating."""
    return one_line(text, len(text) + 1)


def _is_address(line: str) -> bool:
    return "@" in line and "://" not in line and " " not in line


def _party(address: str, numbers: Numbers) -> str:
    """Return an address to call without SIP password and headers, and with its number masked."""
    address = _SIP.sub(_without_password, address)
    if numbers == "whole":
        return address
    name, at, rest = address.partition("@")
    host, semicolon, parameters = rest.partition(";")
    return _masked_numbers(name) + at + host + semicolon + _masked_numbers(parameters)


def _masked_numbers(part: str) -> str:
    return _LOOSE_NUMBER.sub(lambda found: _masked_number(found[0]), part)


def _without_password(found: re.Match[str]) -> str:
    user, colon, _password = found["user"].partition(":")
    secret = f":{MASK}" if colon else ""
    headers = f"?{MASK}" if found["headers"] else ""
    host = found["host"].rpartition("@")[2] if colon else found["host"]
    parameters = found["parameters"] or ""
    if colon and "@" in parameters:  # a part of the password
        parameters = f";{MASK}"
    return f"{found['scheme']}{user}{secret}@{host}{parameters}{headers}"


def _without_details(line: str, numbers: Numbers) -> str:
    return _URL_OR_NUMBER.sub(lambda found: _detail(found, numbers), line)


def _detail(found: re.Match[str], numbers: Numbers) -> str:
    if not found["scheme"]:
        return _number(found) if numbers == "masked" else found[0]
    path = found["path"]
    if numbers == "masked":
        path = _ANY_NUMBER.sub(_number, path)
    user = f"{MASK}@" if found["user"] else ""
    query = f"{found['query'][0]}{MASK}" if found["query"] else ""
    return f"{found['scheme']}{user}{found['host']}{path}{query}"


def _number(found: re.Match[str]) -> str:
    text = found[0]
    if _DATE.fullmatch(text):
        return text
    digits = "".join(c for c in text.casefold().removeprefix("%2b") if c.isdigit())
    if found["plus"]:
        return _masked_number(f"+{digits}")
    return _masked_number(digits) if len(digits) >= _FEWEST_DIGITS else text


def _masked_number(number: str) -> str:
    digits = number.removeprefix("+")
    country = _COUNTRY.match(digits) if digits != number else None
    prefix = country[0] if country else ""
    last = digits[-2:] if len(digits) - len(prefix) >= _TELLING else ""
    return ("+" if digits != number else "") + f"{prefix}•••{last}"


def _keyed_digest(value: Json) -> str:
    return f"sha256:{hmac.new(_KEY, _bytes(value), 'sha256').hexdigest()[:_DIGEST]}"


def _bytes(value: Json) -> bytes:
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or deep nesting
        text = "too large"
    return text.encode("utf-8", "surrogatepass")
