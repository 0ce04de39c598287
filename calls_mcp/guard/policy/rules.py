"""The policy as frozen dataclasses, one per section, and loading it from a file."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, with_config
from pydantic_core import ErrorDetails

from calls_mcp.errors import FileError
from calls_mcp.guard.policy.number_list import load_numbers
from calls_mcp.tools.catalog import CONFIG, Action, Confirm
from calls_mcp.tools.toml_files import Table, checked, must_match, parse, places, read, reason

_DAY = 24 * 60  # minutes
_SPAN = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]|24(?=:00)):([0-5][0-9])")
_EXPECTED_HOURS = (
    'must be hours such as "08:00-21:00", with the end after the start, or "always" or "never"'
)
_CLOSED = ConfigDict(extra="forbid")
_SHIPPED = CONFIG / "policy.toml"
_ACTIONS: tuple[Action, ...] = get_args(Action)
_INSTEAD: dict[Confirm, tuple["Requirement", tuple[Action, ...]]] = {
    "all": ("confirm", ()),
    "destructive": ("never", ("place",)),
    "none": ("never", _ACTIONS),
    "operator": ("operator", _ACTIONS),
}
Requirement = Literal["never", "confirm", "require_human", "operator", "deny"]
Switch = Annotated[bool, Field(strict=True)]
Pattern = Annotated[str, must_match(r"\S+", "a pattern without spaces")]
Prefix = Annotated[
    str, must_match(r"\+[1-9][0-9]{0,14}", "+ and the first digits of a number, without *")
]
HostPattern = Annotated[
    str, must_match(r"[A-Za-z0-9*?._-]+", "a host name or a pattern, without https:// or a path")
]
PreApproved = Annotated[
    str,
    must_match(
        r"(\+[1-9][0-9]*|(sips?|client):[^*\s]+)\*?",
        "a phone number, sip: or client: address, or its beginning followed by *",
    ),
]
NumberType = Literal[
    "fixed_line",
    "mobile",
    "fixed_line_or_mobile",
    "toll_free",
    "premium_rate",
    "shared_cost",
    "voip",
    "personal_number",
    "pager",
    "uan",
    "voicemail",
    "unknown",
]
Account = Annotated[str, must_match("AC[0-9a-fA-F]{32}", "an account SID: AC and 32 hex digits")]
RingSeconds = Annotated[int, Field(strict=True, ge=1, le=600)]
Count = Annotated[int, Field(strict=True, ge=0, le=10_000_000)]


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a day, in minutes since midnight. `end` is exclusive."""

    start: int
    end: int

    def has(self, moment: datetime) -> bool:
        """Return whether the local time of `moment` is in this span."""
        return self.start <= 60 * moment.hour + moment.minute < self.end

    def __str__(self) -> str:
        """Return a phrase, such as "from 08:00 to 21:00"."""
        if self in (ALWAYS, NEVER):
            return "at any time" if self.end else "never"
        return f"from {_clock(self.start)} to {_clock(self.end)}"


ALWAYS, NEVER = Span(0, _DAY), Span(0, 0)


def _parsed_span(text: object) -> Span:
    if text in ("always", "never"):
        return ALWAYS if text == "always" else NEVER
    found = _SPAN.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(_EXPECTED_HOURS)
    hour, minute, last_hour, last_minute = map(int, found.groups())
    span = Span(60 * hour + minute, 60 * last_hour + last_minute)
    if span.start >= span.end:
        raise ValueError(_EXPECTED_HOURS)
    return span


def _known_country(code: str) -> str:
    """Return a known country code. The rule of an unknown one would silently never apply."""
    from phonenumbers import SUPPORTED_REGIONS  # noqa: PLC0415  # 50 ms, if a rule needs it

    if code not in SUPPORTED_REGIONS:
        raise ValueError('must be a country code (ISO 3166), such as "DE" or "GB"')
    return code


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


Country = Annotated[str, AfterValidator(_known_country)]
DayHours = Annotated[Span, BeforeValidator(_parsed_span)]
Exceptional = Literal["allow", "confirm", "require_human", "operator", "deny"]


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class CountryHours:
    """The hours of a country. Missing values are those of `Hours`.

    `daily` is for days without their own hours.
    """

    daily: DayHours | None = None
    monday: DayHours | None = None
    tuesday: DayHours | None = None
    wednesday: DayHours | None = None
    thursday: DayHours | None = None
    friday: DayHours | None = None
    saturday: DayHours | None = None
    sunday: DayHours | None = None
    outside: Exceptional | None = None

    def on(self, moment: datetime) -> Span:
        """Return the hours on the day of a local `moment`."""
        week = (
            self.monday,
            self.tuesday,
            self.wednesday,
            self.thursday,
            self.friday,
            self.saturday,
            self.sunday,
        )
        return week[moment.weekday()] or self.daily or ALWAYS

    def own_days(self) -> Iterator[tuple[str, Span]]:
        """Yield the days that have their own hours, by name."""
        for field in fields(self):
            if field.name not in ("daily", "outside", "unknown", "countries"):
                span: Span | None = getattr(self, field.name)
                if span is not None:
                    yield field.name.capitalize(), span


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Hours(CountryHours):
    """The hours of all countries except those in `countries`, in the called party's local time.

    A call at another time needs `outside`. A call to a party whose local time is not known needs
    `unknown`.
    """

    unknown: Exceptional
    countries: Mapping[Country, CountryHours]

    def of(self, country: str) -> CountryHours:
        """Return the hours of a country (two letters)."""
        own = self.countries.get(country)
        if own is None:
            return self
        names = (field.name for field in fields(own))
        given = {name: value for name in names if (value := getattr(own, name)) is not None}
        return replace(self, **given)


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class ConfirmRules:
    """The requirement for each kind of change."""

    place: Requirement
    redirect: Requirement
    hang_up: Requirement
    modify: Requirement
    delete: Requirement

    def of(self, action: Action) -> Requirement:
        """Return the requirement for `action`."""
        return cast("Requirement", getattr(self, action))


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Destinations:
    """Rules about destinations. `config/policy.toml` explains each field."""

    allow_prefixes: tuple[Prefix, ...]
    deny_prefixes: tuple[Prefix, ...]
    allow_countries: tuple[Country, ...]
    deny_countries: tuple[Country, ...]
    deny_number_types: tuple[NumberType, ...]
    allow_file: str
    deny_file: str
    allow_sip: tuple[Pattern, ...]
    allow_clients: tuple[Pattern, ...]
    pre_approved: tuple[PreApproved, ...]

    @property
    def restrict_numbers(self) -> bool:
        """Return whether there are rules on which numbers may be called, besides their type."""
        allowed = self.allow_prefixes or self.allow_countries or self.allow_file
        return bool(allowed or self.deny_prefixes or self.deny_countries or self.deny_file)

    @property
    def are_strict(self) -> bool:
        """Return whether there are rules about numbers other than the default one."""
        return self.restrict_numbers or bool({*self.deny_number_types} - {"premium_rate"})

    @property
    def restrict_parties(self) -> bool:
        """Return whether there are rules on who may be called, besides the type of a number."""
        return self.restrict_numbers or "*" not in self.allow_sip or "*" not in self.allow_clients


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class CallerIds:
    """Patterns of allowed caller IDs; if empty, all are allowed."""

    allow: tuple[Pattern, ...]


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Accounts:
    """SIDs of allowed accounts; if empty, all are allowed."""

    allow: tuple[Account, ...]


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Urls:
    """Allowed hosts of URLs, and whether https is required."""

    hosts: tuple[HostPattern, ...]
    https_only: Switch

    @property
    def allow_any_host(self) -> bool:
        """Whether every public host is allowed."""
        return "*" in self.hosts


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Twiml:
    """Whether TwiML may be given as an argument, and may have parts that the policy can't check."""

    inline: Switch
    unknown: Switch


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Counts:
    """Limits on calls per minute, hour and day, on simultaneous calls, and on talk per day.

    0 means no limit.
    """

    calls_per_minute: Count
    calls_per_hour: Count
    calls_per_day: Count
    in_flight: Count
    minutes_per_day: Count


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Caps(Counts):
    """Limits, in total and for each `principal`.

    `reads_per_minute` and `changes_per_minute` limit the tool calls of each principal; 0 means no
    limit. `time_limit` (0: none) and `timeout` (of ringing) are in seconds. Within
    `same_number_seconds`, a second call to a number needs a new confirmation; 0 means never. Nobody
    calls a number more than `same_number_per_day` and `same_number_per_week` times; 0: no limit.
    """

    time_limit: Count
    timeout: RingSeconds
    record: Switch
    same_number_seconds: Count
    same_number_per_day: Count
    same_number_per_week: Count
    reads_per_minute: Count
    changes_per_minute: Count
    principal: Counts


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's rules. `config/policy.toml` explains each."""

    confirm: ConfirmRules
    destinations: Destinations
    caller_ids: CallerIds
    accounts: Accounts
    urls: Urls
    twiml: Twiml
    hours: Hours
    caps: Caps

    def under(self, confirm: Confirm) -> "Policy":
        """Return this policy changed by the setting CALLS_MCP_CONFIRM.

        It replaces only the requirement `confirm`; stricter ones are never loosened.
        """
        requirement, actions = _INSTEAD[confirm]
        asked = (action for action in actions if self.confirm.of(action) == "confirm")
        instead: dict[str, Any] = dict.fromkeys(asked, requirement)
        return replace(self, confirm=replace(self.confirm, **instead))


@dataclass(frozen=True, slots=True)
class Objection:
    """An objection of a rule. `reason` is a phrase, and `hint` a sentence on what to do."""

    rule: str
    reason: str
    hint: str


def load_policy(file: Path | None = None) -> Policy:
    """Return the policy in `file`, with defaults from the shipped policy.

    Raises:
        FileError: Names all faults in the file, or in the lists of numbers that it names.
    """
    file = file or _SHIPPED
    text = read(file)
    given = {} if file == _SHIPPED else parse(file, text)
    whole = _overlaid(_shipped(), given)
    lists = _lists(whole["destinations"], file.parent)
    unreadable = [*_unreadable(lists.values())]
    try:
        policy = checked(file, text, _adapter(), whole, _words)
    except FileError as wrong:
        raise FileError([*wrong.problems, *unreadable]) from None
    if unreadable:
        raise FileError(unreadable)
    return replace(policy, destinations=replace(policy.destinations, **lists))


def _lists(rules: object, folder: Path) -> dict[str, Any]:
    """Return the absolute paths of the lists of numbers in a section, by key."""
    table = cast("Table", rules) if isinstance(rules, dict) else {}
    named = {name: table.get(name) for name in ("allow_file", "deny_file")}
    return {
        name: str(folder.absolute() / file)
        for name, file in named.items()
        if file and isinstance(file, str)
    }


def _unreadable(files: Iterable[str]) -> Iterator[str]:
    """Read lists of numbers, and yield what is wrong with them."""
    for file in files:
        try:
            load_numbers(Path(file))
        except FileError as wrong:
            yield from wrong.problems


def itemize(file: Path | None = None) -> list[tuple[str, object, bool]]:
    """Return the dotted name of each rule, its value, and whether `file` sets it.

    Raises:
        FileError: As `load_policy`.
    """
    load_policy(file)
    given = parse(file, read(file)) if file else {}
    own = {name for name, _ in _flat(given)}
    whole = _overlaid(_shipped(), given)
    return [(name, value, name in own) for name, value in _flat(whole)]


def _flat(table: Table, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(cast("Table", value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@cache
def _shipped() -> Table:
    return parse(_SHIPPED, read(_SHIPPED))


@cache
def _adapter() -> TypeAdapter[Policy]:
    return TypeAdapter(Policy)


def _overlaid(base: Table, given: Table) -> Table:
    """Return `base`, overridden by the keys of `given` in each section."""
    both = {
        name for name in given if isinstance(given[name], dict) and isinstance(base.get(name), dict)
    }
    return base | given | {name: _overlaid(base[name], given[name]) for name in both}


def _words(error: ErrorDetails) -> str:
    key = ".".join(part for part in error["loc"] if isinstance(part, str) and part != "[key]")
    if error["type"] == "unexpected_keyword_argument":
        return _unknown(key, is_section=isinstance(error["input"], dict))
    if error["type"] in ("dataclass_type", "dict_type"):
        return f"{key} must be a section: [{key}]"
    items = "".join(f"[{part}]" for part in error["loc"] if isinstance(part, int))
    return f"{key}{items} {reason(error)}"


def _unknown(key: str, *, is_section: bool) -> str:
    known = [".".join(map(str, place)) for place in places(read(_SHIPPED))]
    if key.startswith("hours."):  # days and countries are not in the shipped file
        section = key.rpartition(".")[0]
        known += [f"{section}.{field.name}" for field in fields(CountryHours)]
    if is_section:
        known = [each for each in known if any(k.startswith(f"{each}.") for k in known)]
    similar = get_close_matches(_last(key), map(_last, known), n=1)
    meant = get_close_matches(key, [each for each in known if _last(each) in similar], 1, 0)
    what = f"section [{key}]" if is_section else f"key {key}"
    return f"unknown {what}" + (f"; did you mean {meant[0]}?" if meant else "")


def _last(key: str) -> str:
    return key.rpartition(".")[2]
