"""Which parameters each endpoint takes, and which values: by the reference."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from calls_mcp.emulator.addresses import is_address, is_party
from calls_mcp.emulator.errors import INVALID_PARAMETER, invalid

Pairs = tuple[tuple[str, str], ...]
Values = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Rule:
    """What one parameter may be.

    Attributes:
        accepts: Whether a value is in order.
        expected: The same in words.
        code: The error code for a value that is not.
        repeats: Whether the key may come more than once.
    """

    accepts: Callable[[str], bool]
    expected: str
    code: int = INVALID_PARAMETER
    repeats: bool = False


def one_of(*choices: str) -> Rule:
    """One of these words, spelt exactly so."""
    return Rule(choices.__contains__, f"one of {', '.join(choices)}")


def some_of(*choices: str) -> Rule:
    """These words, in keys of their own or, the older spelling, separated by spaces."""

    def accepts(text: str) -> bool:
        return all(word in choices for word in text.split(" "))

    return Rule(accepts, f"one of {', '.join(choices)}", repeats=True)


def whole(least: int, most: int) -> Rule:
    """A whole number in decimal digits, between two bounds."""

    def accepts(text: str) -> bool:
        return re.fullmatch("[0-9]{1,9}", text) is not None and least <= int(text) <= most

    return Rule(accepts, f"a whole number from {least} to {most}")


def like(pattern: str, expected: str, code: int = INVALID_PARAMETER) -> Rule:
    """A text that a regular expression matches from end to end."""
    compiled = re.compile(pattern, re.DOTALL)
    return Rule(lambda text: compiled.fullmatch(text) is not None, expected, code)


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    absolute = url.scheme in {"http", "https"} and bool(url.hostname) and port != 0
    return absolute and not re.search(r"\s", text)


def _is_callback_url(text: str) -> bool:
    return _is_url(text) and "_" not in (urlsplit(text).hostname or "")


def moment(text: str) -> float | None:
    """A date (its midnight in UTC) or an ISO 8601 date-time, in seconds since the epoch."""
    if not WHEN.fullmatch(text):
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


WHEN = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)

ANYTHING = Rule(lambda _: True, "a text")
BOOLEAN = one_of("true", "false")
CALLBACK_URL = Rule(_is_callback_url, "an absolute URL without an underscore in its host", 21205)
DATE = Rule(lambda text: moment(text) is not None, "YYYY-MM-DD or an ISO 8601 date-time")
METHOD = one_of("GET", "POST")
PARTY = Rule(is_party, "a phone number in E.164 format, sip:name@host, client:name or sim:DE…")
SECONDS = whole(1, 999_999_999)
TWIML = like(".{1,4000}", "1 to 4000 characters")
URL = Rule(_is_url, "an absolute URL", 21205)

CREATE: Mapping[str, Rule] = {
    "To": Rule(is_address, "a phone number in E.164 format, sip:name@host or client:name", 21211),
    "From": Rule(is_address, "a phone number in E.164 format, sip:name@host or client:name", 21212),
    "Url": URL,
    "Twiml": TWIML,
    "ApplicationSid": like("AP[0-9a-fA-F]{32}", "an application SID", 21218),
    "Method": METHOD,
    "FallbackUrl": URL,
    "FallbackMethod": METHOD,
    "StatusCallback": CALLBACK_URL,
    "StatusCallbackEvent": some_of("initiated", "ringing", "answered", "completed"),
    "StatusCallbackMethod": METHOD,
    "SendDigits": like("[0-9#*w]{1,32}", "1 to 32 of 0-9 # * w"),
    "Timeout": whole(1, 600),
    "TimeLimit": SECONDS,
    "Record": BOOLEAN,
    "RecordingChannels": one_of("mono", "dual"),
    "RecordingStatusCallback": URL,
    "RecordingStatusCallbackMethod": METHOD,
    "RecordingStatusCallbackEvent": some_of("in-progress", "completed", "absent"),
    "RecordingTrack": one_of("inbound", "outbound", "both"),
    "Trim": one_of("trim-silence", "do-not-trim"),
    "SipAuthUsername": ANYTHING,
    "SipAuthPassword": ANYTHING,
    "MachineDetection": one_of("Enable", "DetectMessageEnd"),
    "MachineDetectionTimeout": SECONDS,
    "MachineDetectionSpeechThreshold": whole(1000, 6000),
    "MachineDetectionSpeechEndThreshold": whole(500, 5000),
    "MachineDetectionSilenceTimeout": whole(2000, 10_000),
    "AsyncAmd": BOOLEAN,
    "AsyncAmdStatusCallback": URL,
    "AsyncAmdStatusCallbackMethod": METHOD,
    "CallerId": like(r"\S+", "a phone number, SIP address or client identifier"),
    "Byoc": like("BY[0-9a-fA-F]{32}", "a BYOC trunk SID"),
    "CallReason": ANYTHING,
    "CallToken": ANYTHING,
    # what the official library sends, too, though the reference does not tell of it
    "ClientNotificationUrl": URL,
    "Passports": ANYTHING,
    "RecordingConfigurationId": ANYTHING,
}

UPDATE: Mapping[str, Rule] = {
    "Url": URL,
    "Twiml": TWIML,
    "Method": METHOD,
    "Status": one_of("canceled", "completed"),
    "FallbackUrl": URL,
    "FallbackMethod": METHOD,
    "StatusCallback": CALLBACK_URL,
    "StatusCallbackMethod": METHOD,
    "TimeLimit": SECONDS,
}

LIST: Mapping[str, Rule] = {
    "To": PARTY,
    "From": PARTY,
    "ParentCallSid": like("CA[0-9a-fA-F]{32}", "a call SID"),
    "Status": one_of(
        "queued", "ringing", "in-progress", "canceled", "completed", "failed", "busy", "no-answer"
    ),
    "StartTime": DATE,
    "StartTime<": DATE,
    "StartTime>": DATE,
    "EndTime": DATE,
    "EndTime<": DATE,
    "EndTime>": DATE,
    "PageSize": whole(1, 1000),
    "Page": whole(0, 999_999_999),
    "PageToken": like("P[AB]CA0{17}[0-9a-f]{15}", "a token out of next_page_uri"),
}

NOTHING: Mapping[str, Rule] = {}


def checked(pairs: Pairs, rules: Mapping[str, Rule]) -> Values:
    """The values by parameter, once every one of them is in order.

    Raises:
        ApiError: 400, for the first key that is unknown or repeated and the first wrong value.
    """
    values: dict[str, tuple[str, ...]] = {}
    for name, text in pairs:
        if name not in rules:
            raise invalid(f"Unknown parameter {name!r}.")
        values[name] = (*values.get(name, ()), text)
    for name, texts in values.items():
        _check(name, texts, rules[name])
    return values


def _check(name: str, texts: Sequence[str], rule: Rule) -> None:
    if len(texts) > 1 and not rule.repeats:
        raise invalid(f"Parameter {name!r} is given {len(texts)} times.")
    for text in texts:
        if not rule.accepts(text):
            raise invalid(f"{name} {text!r} is not valid: expected {rule.expected}.", rule.code)


def single(values: Values, name: str) -> str | None:
    """The value of a parameter that does not repeat, or None."""
    return values[name][0] if name in values else None
