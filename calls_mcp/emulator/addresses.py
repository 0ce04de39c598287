"""What a call can be placed to or from: a phone number, a SIP address, a client, a SIM."""

import re

PHONE = re.compile(r"\+[1-9][0-9]{1,14}")
SIP = re.compile(r"sips?:[^@\s]+@[^@\s]+")
CLIENT = re.compile(r"client:\S+")
SIM = re.compile(r"sim:DE[0-9a-fA-F]{32}")
NORTH_AMERICAN = re.compile(r"\+1([0-9]{3})([0-9]{3})([0-9]{4})")


def is_phone_number(text: str) -> bool:
    """Whether this is a number in E.164 format."""
    return PHONE.fullmatch(text) is not None


def is_address(text: str) -> bool:
    """Whether a call can be placed to or from this."""
    return any(kind.fullmatch(text) for kind in (PHONE, SIP, CLIENT))


def is_party(text: str) -> bool:
    """Whether the list of calls can be filtered by this."""
    return is_address(text) or SIM.fullmatch(text) is not None


def formatted(address: str) -> str:
    """The address as the service shows it to people: `(617) 555-1212`, or unchanged."""
    match = NORTH_AMERICAN.fullmatch(address)
    return "({}) {}-{}".format(*match.groups()) if match else address
