"""The operator's rules: frozen data, section by section, and how they are read from a file."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from pydantic_core import ErrorDetails

from calls_mcp.tools.catalog import CONFIG, Action, Confirm
from calls_mcp.tools.toml_files import Table, checked, parse, places, read, reason

_CLOSED = ConfigDict(extra="forbid")

_SHIPPED = CONFIG / "policy.toml"
_ACTIONS: tuple[Action, ...] = get_args(Action)
_INSTEAD: dict[Confirm, tuple["Requirement", tuple[Action, ...]]] = {
    "all": ("confirm", ()),
    "destructive": ("never", ("place",)),
    "none": ("never", _ACTIONS),
    "operator": ("operator", _ACTIONS),
}


def _must_match(pattern: str, expected: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {expected}")
        return text

    return AfterValidator(check)


def _known_country(code: str) -> str:
    """Refuse a code that no number could ever have: a rule that never applies looks like one."""
    from phonenumbers import SUPPORTED_REGIONS  # noqa: PLC0415  # 50 ms, if a rule needs it

    if code not in SUPPORTED_REGIONS:
        raise ValueError('must be the two capital letters of a country, as in "DE" or "GB"')
    return code


Requirement = Literal["never", "confirm", "require_human", "operator", "deny"]
Switch = Annotated[bool, Field(strict=True)]
Pattern = Annotated[str, _must_match(r"\S+", "a pattern without spaces")]
Prefix = Annotated[str, _must_match(r"\+[1-9][0-9]{0,14}", "the + and first digits of numbers")]
Country = Annotated[str, AfterValidator(_known_country)]
HostPattern = Annotated[
    str, _must_match(r"[A-Za-z0-9*?._-]+", "a host's name or a pattern, without https:// or path")
]
PreApproved = Annotated[
    str,
    _must_match(
        r"(\+[1-9][0-9]*|(sips?|client):[^*\s]+)\*?",
        "a +number, sip: or client: address, whole or its beginning and *",
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
Account = Annotated[str, _must_match("AC[0-9a-fA-F]{32}", "an account SID: AC and 32 hex digits")]
Seconds = Annotated[int, Field(strict=True, ge=1)]
RingSeconds = Annotated[int, Field(strict=True, ge=1, le=600)]
Count = Annotated[int, Field(strict=True, ge=0)]


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Confirmations:
    """What each kind of change needs before it is sent."""

    place: Requirement
    redirect: Requirement
    hang_up: Requirement
    modify: Requirement
    delete: Requirement

    def of(self, action: Action) -> Requirement:
        """Return what `action` needs."""
        return cast("Requirement", getattr(self, action))


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Destinations:
    """Whom a call may ring; see `config/policy.toml` for the meaning of each field."""

    allow_prefixes: tuple[Prefix, ...]
    deny_prefixes: tuple[Prefix, ...]
    allow_countries: tuple[Country, ...]
    deny_countries: tuple[Country, ...]
    deny_number_types: tuple[NumberType, ...]
    allow_sip: tuple[Pattern, ...]
    allow_clients: tuple[Pattern, ...]
    pre_approved: tuple[PreApproved, ...]

    @property
    def restrict_numbers(self) -> bool:
        """Return whether there are rules on which numbers may be called, beside their type."""
        allowed, denied = self.allow_prefixes or self.allow_countries, self.deny_prefixes
        return bool(allowed or denied or self.deny_countries)

    @property
    def restrict_parties(self) -> bool:
        """Return whether there are rules on who may be called, beside the type of a number."""
        return self.restrict_numbers or "*" not in self.allow_sip or "*" not in self.allow_clients


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class CallerIds:
    """The patterns one of which each caller id must match, if there are any."""

    allow: tuple[Pattern, ...]


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Accounts:
    """The accounts that may be used, if it names any."""

    allow: tuple[Account, ...]


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Urls:
    """The hosts that the API may be sent to, and whether by https alone."""

    hosts: tuple[HostPattern, ...]
    https_only: Switch

    @property
    def any_host(self) -> bool:
        """Return whether every host is allowed that is not always refused."""
        return self.hosts == ("*",)


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Twiml:
    """Whether TwiML may be given as an argument, and may have parts that no rule can check."""

    inline: Switch
    unknown: Switch


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Counts:
    """How many calls may be placed in a minute, an hour and a day, and live at once; 0: any."""

    calls_per_minute: Count
    calls_per_hour: Count
    calls_per_day: Count
    in_flight: Count


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Caps(Counts):
    """The ceilings, in all and for each `principal`.

    `reads_per_minute` and `changes_per_minute` are of tool calls, by each principal; 0 means any.
    `time_limit` (0: none) and `timeout` (of ringing) are in seconds, and so is
    `same_number_seconds`: for so long no second call goes to a number unless it is confirmed anew;
    0 means at once.
    """

    time_limit: Count
    timeout: RingSeconds
    record: Switch
    same_number_seconds: Count
    reads_per_minute: Count
    changes_per_minute: Count
    principal: Counts


@with_config(_CLOSED)
@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's rules, section by section; see `config/policy.toml` for their meaning."""

    confirm: Confirmations
    destinations: Destinations
    caller_ids: CallerIds
    accounts: Accounts
    urls: Urls
    twiml: Twiml
    caps: Caps

    def under(self, confirm: Confirm) -> "Policy":
        """Return this policy under the setting CALLS_MCP_CONFIRM.

        That says what becomes of what the policy has confirmed; a human where the policy requires
        one, and what it denies, is never loosened.
        """
        requirement, actions = _INSTEAD[confirm]
        asked = (action for action in actions if self.confirm.of(action) == "confirm")
        instead: dict[str, Any] = dict.fromkeys(asked, requirement)
        return replace(self, confirm=replace(self.confirm, **instead))


@dataclass(frozen=True, slots=True)
class Objection:
    """What a rule has against a value, as the end of a sentence, and what to do about it."""

    rule: str
    reason: str
    hint: str


def load_policy(file: Path | None = None) -> Policy:
    """Return the policy in `file`, with the shipped rules in place of those it leaves out.

    Raises:
        FileError: Naming everything that is wrong with the file.
    """
    file = file or _SHIPPED
    text = read(file)
    given = parse(file, text)
    whole = _overlaid(parse(_SHIPPED, read(_SHIPPED)), given)
    return checked(file, text, _adapter(), whole, _words)


def itemize(file: Path | None = None) -> list[tuple[str, object, bool]]:
    """Return each rule by its dotted name: what it is set to, and whether `file` sets it.

    Raises:
        FileError: As `load_policy`.
    """
    load_policy(file)
    given = parse(file, read(file)) if file else {}
    own = {name for name, _ in _flat(given)}
    whole = _overlaid(parse(_SHIPPED, read(_SHIPPED)), given)
    return [(name, value, name in own) for name, value in _flat(whole)]


def _flat(table: Table, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(cast("Table", value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@cache
def _adapter() -> TypeAdapter[Policy]:
    return TypeAdapter(Policy)


def _overlaid(base: Table, given: Table) -> Table:
    """Return `base` with the keys of `given` in place of its own, section by section."""
    both = {name for name in given if isinstance(given[name], dict) and name in base}
    return base | given | {name: _overlaid(base[name], given[name]) for name in both}


def _words(error: ErrorDetails) -> str:
    key = ".".join(part for part in error["loc"] if isinstance(part, str))
    if error["type"] == "unexpected_keyword_argument":
        return _unknown(key, is_section=isinstance(error["input"], dict))
    if error["type"] == "dataclass_type":
        return f"{key} should be a section"
    items = "".join(f"[{part}]" for part in error["loc"] if isinstance(part, int))
    return f"{key}{items} {reason(error).replace('a valid tuple', 'an array')}"


def _unknown(key: str, *, is_section: bool) -> str:
    known = [".".join(map(str, place)) for place in places(read(_SHIPPED))]
    meant = get_close_matches(key, known, n=1)
    what = f"section [{key}]" if is_section else f"key {key}"
    return f"unknown {what}" + (f"; did you mean {meant[0]}?" if meant else "")
