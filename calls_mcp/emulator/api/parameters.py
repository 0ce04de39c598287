"""The parameters of each endpoint and their valid values."""

import re
from calendar import month_abbr
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from calls_mcp.emulator.addresses import ADDRESS, PHONE
from calls_mcp.emulator.api_errors import INVALID_PARAMETER, invalid

Pairs = tuple[tuple[str, str], ...]
Values = Mapping[str, str]

_CALLER = rf"{PHONE}|client:\S+|[^+@:\s][^@:\s]*"
_SOME_ADDRESS = "a phone number in E.164 format, sip:name@host"
_ISO_8601 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_AMERICAN = re.compile(r"([0-9]{2})/([0-9]{2})/([0-9]{4}) ([0-9:]{8} [A-Z]{3})")
_RFC_2822 = re.compile(
    r"([A-Z][a-z]{2}, )?[0-9]{1,2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8}"
    r" ([+-][0-9]{4}|GMT|UTC|[CEMP][DS]T)"
)


def moment(text: str) -> float | None:
    """Return a date (midnight UTC) or a time in seconds since the epoch; None if it is invalid.

    Times are in ISO 8601, RFC 2822, or like `06/11/2019 22:05:25 MST`.
    """
    try:
        if american := _AMERICAN.fullmatch(text):
            month, day, year, rest = american.groups()
            text = f"{day} {month_abbr[int(month)]} {year} {rest}"
        if _ISO_8601.fullmatch(text):
            when = datetime.fromisoformat(text)
        elif _RFC_2822.fullmatch(text):
            when = parsedate_to_datetime(text)
        else:
            return None
    except (ValueError, IndexError):
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True)
class Parameter:
    """The valid values of a parameter.

    Attributes:
        accepts: Returns whether a value is valid.
        expected: A description of valid values.
        code: The error code for an invalid value.
        repeats: Whether the key can occur more than once.
    """

    accepts: Callable[[str], bool]
    expected: str
    code: int = INVALID_PARAMETER
    repeats: bool = False


def _one_of(*choices: str) -> Parameter:
    return Parameter(choices.__contains__, f"one of {', '.join(choices)}")


def _some_of(*choices: str) -> Parameter:
    """Accept one choice for each key, or several separated by spaces (the older form)."""

    def accepts(text: str) -> bool:
        return all(word in choices for word in text.split(" "))

    return Parameter(accepts, f"one of {', '.join(choices)}", repeats=True)


def _whole(least: int, most: int) -> Parameter:
    def accepts(text: str) -> bool:
        return re.fullmatch("[0-9]{1,9}", text) is not None and least <= int(text) <= most

    return Parameter(accepts, f"a whole number from {least} to {most}")


def _like(pattern: str, expected: str, code: int = INVALID_PARAMETER) -> Parameter:
    compiled = re.compile(pattern, re.DOTALL)
    return Parameter(lambda text: compiled.fullmatch(text) is not None, expected, code)


def _each(names: str, parameter: Parameter) -> Mapping[str, Parameter]:
    return dict.fromkeys(names.split(), parameter)


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


_ANYTHING = Parameter(lambda _: True, "a string")
_BOOLEAN = _one_of("true", "false")
_CALL = _like("CA[0-9a-fA-F]{32}", "a call SID")
_CALLBACK = Parameter(_is_callback_url, "an absolute URL without an underscore in its host", 21205)
_DATE = Parameter(lambda text: moment(text) is not None, "YYYY-MM-DD or an ISO 8601 date-time")
_METHOD = _one_of("GET", "POST")
_LISTED = _like(r"\S(.{0,510}\S)?", "an address of 1 to 512 characters")
_SECONDS = _whole(1, 999_999_999)
_TWIML = _like(".{1,4000}", "1 to 4000 characters")
_URL = Parameter(_is_url, "an absolute URL", 21205)

START_RECORDING: Mapping[str, Parameter] = {
    "RecordingChannels": _one_of("mono", "dual"),
    "RecordingStatusCallback": _URL,
    "RecordingStatusCallbackMethod": _METHOD,
    "RecordingStatusCallbackEvent": _some_of("in-progress", "completed", "absent"),
    "RecordingTrack": _one_of("inbound", "outbound", "both"),
    "RecordingConfigurationId": _ANYTHING,
    "Trim": _one_of("trim-silence", "do-not-trim"),
}

UPDATE_RECORDING: Mapping[str, Parameter] = {
    "Status": _one_of("in-progress", "paused", "stopped"),
    "PauseBehavior": _one_of("skip", "silence"),
}

FETCH_RECORDING: Mapping[str, Parameter] = {"IncludeSoftDeleted": _BOOLEAN}

CREATE: Mapping[str, Parameter] = {
    **START_RECORDING,
    "To": _like(ADDRESS, f"{_SOME_ADDRESS} or client:name", 21211),
    "From": _like(_CALLER, "a phone number in E.164 format, client:name or a user name", 21212),
    "Twiml": _TWIML,
    "ApplicationSid": _like("AP[0-9a-fA-F]{32}", "an application SID", 21218),
    "StatusCallback": _CALLBACK,
    "StatusCallbackEvent": _some_of("initiated", "ringing", "answered", "completed"),
    "SendDigits": _like("[0-9A-D#*wW]{1,32}", "1 to 32 of 0-9 A-D # * w W"),
    "Timeout": _whole(1, 600),
    "MachineDetection": _one_of("Enable", "DetectMessageEnd"),
    "MachineDetectionSpeechThreshold": _whole(1000, 6000),
    "MachineDetectionSpeechEndThreshold": _whole(500, 5000),
    "MachineDetectionSilenceTimeout": _whole(2000, 10_000),
    "CallerId": _like(r"\S+", "a phone number, SIP address or client identifier"),
    "Byoc": _like("BY[0-9a-fA-F]{32}", "a BYOC trunk SID"),
    **_each("Url FallbackUrl AsyncAmdStatusCallback", _URL),
    **_each("Method FallbackMethod StatusCallbackMethod", _METHOD),
    "AsyncAmdStatusCallbackMethod": _METHOD,
    **_each("TimeLimit MachineDetectionTimeout", _SECONDS),
    **_each("Record AsyncAmd", _BOOLEAN),
    **_each("SipAuthUsername SipAuthPassword CallReason CallToken", _ANYTHING),
    # the official library sends these, but the reference omits them
    "ClientNotificationUrl": _URL,
    "Passports": _ANYTHING,
}

UPDATE: Mapping[str, Parameter] = {
    "Status": _one_of("canceled", "completed"),
    "Twiml": _TWIML,
    "StatusCallback": _CALLBACK,
    "TimeLimit": _SECONDS,
    **_each("Url FallbackUrl", _URL),
    **_each("Method FallbackMethod StatusCallbackMethod", _METHOD),
}

_PAGING: Mapping[str, Parameter] = {
    "PageSize": _whole(1, 1000),
    "Page": _whole(0, 999_999_999),
    "PageToken": _like("P[AB][A-Z]{2}0{17}[0-9a-f]{15}", "the PageToken of a next_page_uri"),
}

LIST: Mapping[str, Parameter] = {
    "To": _LISTED,
    "From": _LISTED,
    "ParentCallSid": _CALL,
    "Status": _one_of(
        "queued", "ringing", "in-progress", "canceled", "completed", "failed", "busy", "no-answer"
    ),
    **_each("StartTime StartTime< StartTime> EndTime EndTime< EndTime>", _DATE),
    **_PAGING,
}

LIST_RECORDINGS: Mapping[str, Parameter] = {
    **_each("DateCreated DateCreated< DateCreated>", _DATE),
    "CallSid": _CALL,
    "ConferenceSid": _like("CF[0-9a-fA-F]{32}", "a conference SID"),
    "IncludeSoftDeleted": _BOOLEAN,
    **_PAGING,
}

LIST_ACCOUNTS: Mapping[str, Parameter] = {
    "FriendlyName": _ANYTHING,
    "Status": _one_of("active", "closed", "suspended"),
    **_PAGING,
}

LIST_NUMBERS: Mapping[str, Parameter] = {
    **_each("FriendlyName PhoneNumber Origin", _ANYTHING),
    "Beta": _BOOLEAN,
    **_PAGING,
}


def checked(pairs: Pairs, parameters: Mapping[str, Parameter]) -> Values:
    """Return the value of each parameter, all of which are known. Repeated values are joined.

    Raises:
        ApiError: A parameter is invalid (400).
    """
    values: dict[str, list[str]] = {}
    for name, text in pairs:
        values.setdefault(name, []).append(text)
    for name, texts in values.items():
        _check(name, texts, parameters[name])
    return {name: " ".join(texts) for name, texts in values.items()}


def _check(name: str, texts: Sequence[str], parameter: Parameter) -> None:
    if len(texts) > 1 and not parameter.repeats:
        raise invalid(f"Parameter '{name}' is specified {len(texts)} times. Specify it once.")
    for text in texts:
        if not parameter.accepts(text):
            expected = f"expected {parameter.expected}"
            raise invalid(f"Invalid {name} '{text}': {expected}.", parameter.code)
