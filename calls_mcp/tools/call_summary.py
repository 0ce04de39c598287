"""The summary of a call, normalized from the API's representation.

Invalid values and unknown fields are left out, so that no response of the API breaks it.
"""

import re
from collections.abc import Mapping
from datetime import UTC
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
)
from pydantic_core import core_schema

from calls_mcp.observability.redaction import one_line

LIVE = frozenset({"queued", "ringing", "in-progress"})
FINAL = frozenset({"completed", "busy", "no-answer", "failed", "canceled"})

LONGEST_ADDRESS = 512  # characters, as list filters accept
LONGEST_NAME = 256
_LIMITS = (
    ("from", LONGEST_ADDRESS),
    ("to", LONGEST_ADDRESS),
    ("forwarded_from", LONGEST_ADDRESS),
    ("caller_name", LONGEST_NAME),
)
_MOST_DIGITS = 15
_CALL_SID = "^CA[0-9a-fA-F]{32}$"
_TERM = "^[A-Za-z0-9_-]{1,40}$"  # a keyword or SID of the API
_DECIMAL = "^[+-]?[0-9]{1,24}([.][0-9]{1,15})?([eE][+-]?[0-9]{1,4})?$"
_HOUR = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [12][0-9]{3} (?:[01][0-9]|2[0-3]):")
_CLOCK = re.compile(r"[0-5][0-9]:[0-5][0-9]")
_LIVENESS = dict.fromkeys(LIVE, True) | dict.fromkeys(FINAL, False)


class NotACall(ValueError):
    """The API's representation is not a call."""


def _address(text: str) -> str | None:
    return one_line(text, LONGEST_ADDRESS) or None


def _name(text: str) -> str | None:
    return one_line(text, LONGEST_NAME) or None


def _liveness(status: object) -> bool | None:
    return _LIVENESS.get(status) if isinstance(status, str) else None


def _time(text: str) -> str | None:
    """Return a time of RFC 2822, such as `Wed, 25 Nov 2026 08:30:00 +0000`, in ISO 8601."""
    hour, clock = _hour(text[:20]), text[20:25]
    if hour and _is_clock(clock) and text[25:] == " +0000":  # ten times as fast as the library
        return f"{hour}{clock}Z"
    try:
        moment = parsedate_to_datetime(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # "-0000" has no time zone
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
    except (ValueError, OverflowError):
        return None


@lru_cache(maxsize=256)
def _hour(text: str) -> str | None:
    """Return `Wed, 25 Nov 2026 08:` in ISO 8601, with the `T` and the colon."""
    if not _HOUR.fullmatch(text):
        return None
    try:
        return parsedate_to_datetime(f"{text}00:00 +0000").isoformat()[:14]
    except ValueError:
        return None


@lru_cache(maxsize=3600)
def _is_clock(text: str) -> bool:
    return bool(_CLOCK.fullmatch(text))


@lru_cache(maxsize=256)  # most calls cost the same
def _charge(text: str) -> str | None:
    """Return the cost: the API's price with the sign reversed, since its charges are negative."""
    price = Decimal(text)
    if abs(price.adjusted()) > _MOST_DIGITS:
        return None
    return f"{-price.normalize() or Decimal(0):f}"


class _NoneIfInvalid:
    """Replaces invalid values with None."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_default_schema(handler(source), default=None, on_error="default")


class _RejectBool:
    """Rejects booleans, which Python treats as integers, without a call into Python."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        texts_and_numbers = core_schema.union_schema(
            [core_schema.str_schema(strict=True), core_schema.float_schema(strict=True)],
            mode="left_to_right",
        )
        return core_schema.chain_schema([texts_and_numbers, handler(source)])


Address = Annotated[Annotated[str, AfterValidator(_address)] | None, _NoneIfInvalid()]
Name = Annotated[Annotated[str, AfterValidator(_name)] | None, _NoneIfInvalid()]
Term = Annotated[Annotated[str, Field(pattern=_TERM)] | None, _NoneIfInvalid()]
Live = Annotated[bool | None, BeforeValidator(_liveness)]
Time = Annotated[Annotated[str, AfterValidator(_time)] | None, _NoneIfInvalid()]
Count = Annotated[
    Annotated[int, Field(ge=0, lt=10**_MOST_DIGITS), _RejectBool()] | None,
    _NoneIfInvalid(),
]
Cost = Annotated[
    Annotated[str, Field(pattern=_DECIMAL, coerce_numbers_to_str=True), AfterValidator(_charge)]
    | None,
    _NoneIfInvalid(),
]


class Content(BaseModel):
    """A part of a result's content. Unknown values are left out, never null or empty."""

    model_config = ConfigDict(frozen=True, serialize_by_alias=True)

    def content(self) -> dict[str, object]:
        """Return it as JSON types."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def to_json(self) -> str:
        """Return it as JSON."""
        return self.model_dump_json(exclude_defaults=True)


class CallSummary(Content):
    """A normalized call. Each field is read from the API's field with its name or alias.

    Times (`*_at`) are ISO 8601 in UTC. `duration_seconds` and `queue_ms` are integers. `cost` is a
    decimal in `currency`; a credit is negative. `live` is whether the call is queued, ringing or in
    progress. In a list, `account_sid` is given once for all calls.
    """

    sid: str = Field(pattern=_CALL_SID)
    status: Term = None
    live: Live = Field(default=None, validation_alias="status")
    direction: Term = None
    from_: Address = Field(default=None, alias="from")
    to: Address = None
    caller_name: Name = None
    answered_by: Term = None
    created_at: Time = Field(default=None, validation_alias="date_created")
    started_at: Time = Field(default=None, validation_alias="start_time")
    ended_at: Time = Field(default=None, validation_alias="end_time")
    duration_seconds: Count = Field(default=None, validation_alias="duration")
    queue_ms: Count = Field(default=None, validation_alias="queue_time")
    cost: Cost = Field(default=None, validation_alias="price")
    currency: Term = Field(default=None, validation_alias="price_unit")
    parent_call_sid: Term = None
    forwarded_from: Address = None
    account_sid: Term = None
    phone_number_sid: Term = None
    trunk_sid: Term = None
    group_sid: Term = None

    @property
    def root_sid(self) -> str:
        """The SID of the call that started this one, or its own."""
        return self.parent_call_sid or self.sid

    @property
    def cut(self) -> tuple[str, ...]:
        """Return which texts were too long, such as `from was cut to 512 characters`."""
        texts = (self.from_, self.to, self.forwarded_from, self.caller_name)
        return tuple(
            f"{field} was cut to {limit} characters"
            for (field, limit), text in zip(_LIMITS, texts, strict=True)
            if text and text.endswith("…") and len(text) == limit
        )

    def content(self) -> dict[str, object]:
        """Return it as JSON types, in half the time of pydantic."""
        values = vars(self).items()
        return {"from" if name == "from_" else name: v for name, v in values if v is not None}


def summarize(payload: Mapping[str, object]) -> CallSummary:
    """Return the summary of one call.

    Raises:
        NotACall: `payload` has no call SID.
    """
    try:
        return CallSummary.model_validate(payload)
    except ValidationError:
        raise NotACall("the API's response is not a call") from None
