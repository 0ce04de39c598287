"""Calling hours, in the local time of the called party."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import phonenumbers.timezone
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls_mcp.guard.calling_hours import local_times, outside_hours
from calls_mcp.guard.policy.rules import ALWAYS, NEVER, CountryHours, Hours, Span
from tests.guard.approving import approve_next, as_it_is_found
from tests.guard.policy.cases import SHIPPED
from tests.harness import Agent, Harness, open_harness, placing

pytestmark = pytest.mark.anyio

HOURS = SHIPPED.hours
NEW_YORK, BERLIN, DELHI = "+12025550171", "+493012345678", "+911123456789"
RUSSIAN_MOBILE, TOLL_FREE = "+79161234567", "+18005551234"


PLACES = (NEW_YORK, BERLIN, DELHI, RUSSIAN_MOBILE, "+61412345678", "+97714123456", "+56221234567")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def at(iso: str) -> datetime:
    return datetime.fromisoformat(iso).replace(tzinfo=UTC)


def is_open(number: str, now: datetime, hours: Hours = HOURS) -> bool:
    return not outside_hours(hours, [number], now)


@pytest.mark.parametrize(
    ("number", "now", "expected"),
    [
        pytest.param(NEW_YORK, "2026-01-06T12:59:59", False, id="07:59:59"),
        pytest.param(NEW_YORK, "2026-01-06T13:00:00", True, id="08:00:00"),
        pytest.param(NEW_YORK, "2026-01-07T01:59:59", True, id="20:59:59"),
        pytest.param(NEW_YORK, "2026-01-07T02:00:00", False, id="21:00:00"),
        pytest.param(NEW_YORK, "2026-03-08T12:00:00", True, id="08:00 after clocks went forward"),
        pytest.param(NEW_YORK, "2026-03-07T12:00:00", False, id="07:00 the day before"),
        pytest.param(NEW_YORK, "2026-11-01T12:00:00", False, id="07:00 after clocks went back"),
        pytest.param(NEW_YORK, "2026-10-31T12:00:00", True, id="08:00 the day before"),
        pytest.param(DELHI, "2026-01-06T02:29:59", False, id="07:59:59 in a half-hour zone"),
        pytest.param(DELHI, "2026-01-06T02:30:00", True, id="08:00 in a half-hour zone"),
        pytest.param(DELHI, "2026-01-06T15:30:00", False, id="21:00 in a half-hour zone"),
        pytest.param(RUSSIAN_MOBILE, "2026-01-06T05:59:59", False, id="07:59:59 in Kaliningrad"),
        pytest.param(RUSSIAN_MOBILE, "2026-01-06T06:00:00", True, id="08:00 and earlier elsewhere"),
        pytest.param(RUSSIAN_MOBILE, "2026-01-06T09:00:00", False, id="21:00 in Kamchatka"),
        pytest.param(TOLL_FREE, "2026-01-06T07:00:00", True, id="toll-free"),
        pytest.param("client:alice", "2026-01-06T07:00:00", True, id="client"),
        pytest.param("sip:alice@example.com", "2026-01-06T07:00:00", True, id="SIP"),
        pytest.param("sip:1002@example.com", "2026-01-06T07:00:00", True, id="extension"),
        pytest.param(f"sip:{NEW_YORK}@example.com", "2026-01-06T07:00:00", False, id="number"),
        pytest.param("sip:0012025550171@a.com", "2026-01-06T07:00:00", False, id="exit code"),
        pytest.param(f"{NEW_YORK}9", "2026-01-06T07:00:00", False, id="extra digit"),
        pytest.param(f"sip:{NEW_YORK}99@a.com", "2026-01-06T07:00:00", False, id="extra digits"),
        pytest.param("+447700900123", "2026-01-06T03:00:00", False, id="not in the plan"),
        pytest.param("+15551234567", "2026-01-06T07:00:00", False, id="no area code"),
        pytest.param("+5215512345678", "2026-01-06T07:00:00", False, id="old Mexican mobile"),
        pytest.param("+9999123456", "2026-01-06T07:00:00", True, id="no country"),
    ],
)
def test_a_number_can_be_called_if_it_is_a_time_for_calls_in_all_its_zones(
    number: str, now: str, *, expected: bool
) -> None:
    assert is_open(number, at(now)) is expected


@given(
    seconds=st.integers(1_600_000_000, 2_000_000_000),
    number=st.sampled_from(PLACES),
    daily=st.tuples(st.integers(0, 1439), st.integers(1, 1440)).filter(
        lambda span: span[0] < span[1]
    ),
    weekday=st.integers(0, 6),
)
def test_the_answer_agrees_with_the_clocks_of_all_zones(
    seconds: int, number: str, daily: tuple[int, int], weekday: int
) -> None:
    week: dict[str, Any] = {DAYS[weekday]: NEVER}
    hours = replace(HOURS, daily=Span(*daily), **week)
    zones = phonenumbers.timezone.time_zones_for_number(phonenumbers.parse(number))
    clocks = [datetime.fromtimestamp(seconds, ZoneInfo(zone)) for zone in zones]
    minutes = [clock.hour * 60 + clock.minute for clock in clocks]
    expected = all(
        daily[0] <= minute < daily[1] and clock.weekday() != weekday
        for clock, minute in zip(clocks, minutes, strict=True)
    )
    assert is_open(number, datetime.fromtimestamp(seconds, UTC), hours) is expected


def test_a_refusal_gives_the_local_time_the_hours_and_when_to_try_again() -> None:
    (night,) = outside_hours(HOURS, [NEW_YORK], at("2026-01-06T08:14"))
    assert night.sentence == (
        "It is Tuesday 03:14 (New York time, US), and calls there are allowed from 08:00 to 21:00."
    )
    assert night.hint.startswith("Try again in 5 h. ")
    closed = replace(HOURS, countries={"DE": CountryHours(sunday=NEVER, monday=Span(600, 660))})
    both = outside_hours(closed, [BERLIN, NEW_YORK], at("2026-01-04T12:00"))
    assert [each.reason.partition(" for ")[2] for each in both] == [
        "+49 30 12345678, and calls there are not allowed on Sundays",
        "+1 202 555 0171, and calls there are allowed from 08:00 to 21:00",
    ]
    assert both[0].hint.startswith("Try again in 21 h. ")
    (never,) = outside_hours(replace(HOURS, daily=NEVER), [BERLIN], at("2026-01-04T12:00"))
    assert "Retry" not in never.hint


def test_the_hours_of_a_country_apply_to_its_numbers_that_are_not_in_the_plan() -> None:
    hours = replace(HOURS, daily=ALWAYS, countries={"IN": CountryHours(daily=NEVER)})
    assert not is_open("+91987654321", at("2026-01-06T09:00"), hours)


def test_a_country_has_its_own_requirement_and_so_has_an_unknown_time() -> None:
    hours = replace(HOURS, unknown="operator", countries={"DE": CountryHours(outside="deny")})
    found = outside_hours(hours, [BERLIN, NEW_YORK, "client:bob"], at("2026-01-06T03:00"))
    assert [(each.requirement, each.rule) for each in found] == [
        ("deny", "hours.outside"),
        ("confirm", "hours.outside"),
        ("operator", "hours.unknown"),
    ]
    assert found[2].reason == 'the local time for "client:bob" is unknown'


@asynccontextmanager
async def at_new_york(
    directory: Path, clock: str, rules: str = "", **settings: object
) -> AsyncGenerator[tuple[Harness, Agent]]:
    """A server at a time of the day in New York, whose policy has these `rules`."""
    file = directory / "policy.toml"
    file.write_text(f"{rules}\n[urls]\nhttps_only = false\n", "utf-8")
    opening = open_harness(sandbox=False, calls_mcp_policy=file, **settings)
    async with opening as harness, harness.connect() as agent:
        local = datetime.fromisoformat(f"2026-01-06T{clock}").replace(
            tzinfo=ZoneInfo("America/New_York")
        )
        harness.clock.advance(local.timestamp() - harness.clock())
        yield harness, agent


PRE_APPROVED = f'[destinations]\npre_approved = ["{NEW_YORK}"]\n'
AT_NIGHT = "Outside calling hours: It is Tuesday 21:00 (New York time, US), and calls there are "


@pytest.mark.parametrize(
    ("rules", "confirm"),
    [(PRE_APPROVED, "all"), ('[confirm]\nplace = "never"\n', "all"), ("", "none")],
)
async def test_at_night_a_call_that_needs_no_confirmation_needs_one(
    tmp_path: Path, rules: str, confirm: str
) -> None:
    call = placing(to=NEW_YORK)
    async with at_new_york(tmp_path, "20:59:59", rules, calls_mcp_confirm=confirm) as (
        harness,
        agent,
    ):
        by_day = await agent.call("create_call", **call)
        harness.clock.advance(31)
        asked = await agent.call("create_call", **call)
        assert len(harness.changes) == 1
        token = asked["confirmation"]["token"]
        done = await agent.call("create_call", **call, confirmation_token=token)
        assert len(harness.changes) == 2
    assert by_day["outcome"] == done["outcome"] == "done"
    assert AT_NIGHT in asked["confirmation"]["preview"]


@pytest.mark.parametrize(("outside", "needs_human"), [("confirm", True), ("allow", False)])
async def test_at_night_a_pre_approved_number_needs_what_other_numbers_need(
    tmp_path: Path, outside: str, *, needs_human: bool
) -> None:
    rules = f'[confirm]\nplace = "require_human"\n{PRE_APPROVED}[hours]\noutside = "{outside}"\n'
    async with at_new_york(tmp_path, "20:59:59", rules) as (harness, agent):
        by_day = await agent.call("create_call", **placing(to=NEW_YORK))
        harness.clock.advance(31)
        at_night = await agent.call("create_call", **placing(to=NEW_YORK))
    assert by_day["outcome"] == "done"
    assert ("(confirm.place)" in at_night.get("error", {}).get("message", "")) is needs_human
    assert (at_night["outcome"] == "done") is not needs_human


async def test_a_number_that_twiml_dials_needs_a_confirmation_at_night(tmp_path: Path) -> None:
    dials = f"<Response><Dial>{NEW_YORK}</Dial></Response>"
    async with at_new_york(tmp_path, "23:00:00", calls_mcp_confirm="none") as (harness, agent):
        asked = await agent.call("create_call", **placing(twiml=dials))
        sid = (await agent.call("create_call", **placing()))["call"]["sid"]
        redirected = await agent.call("update_call", sid=sid, twiml=dials)
        assert len(harness.changes) == 1
        hung_up = await agent.call("update_call", sid=sid, status="completed")
    for outcome in (asked, redirected):
        assert "Outside calling hours: " in outcome["confirmation"]["preview"]
    assert hung_up["outcome"] == "done"


async def test_at_night_a_call_is_refused_with_the_time_to_call_if_the_policy_denies_it(
    tmp_path: Path,
) -> None:
    rules = '[hours]\noutside = "deny"\n'
    async with at_new_york(tmp_path, "20:59:00", rules) as (harness, agent):
        asked = await agent.call("create_call", **placing(to=NEW_YORK))
        harness.clock.advance(60)
        token = asked["confirmation"]["token"]
        late = await agent.call("create_call", **placing(to=NEW_YORK, confirmation_token=token))
        again = await agent.call("create_call", **placing(to=NEW_YORK))
        assert harness.changes == []
    for outcome in (late, again):
        assert (
            "(hours.outside): it is Tuesday 21:00 (New York time, US)"
            in outcome["error"]["message"]
        )
        assert "Try again in 11 h." in outcome["error"]["hint"]


async def test_a_refusal_at_night_names_all_rules_and_parties(tmp_path: Path) -> None:
    rules = f'[hours]\noutside = "deny"\n[accounts]\nallow = ["AC{"1" * 32}"]\n'
    twiml = f"<Response><Dial>{BERLIN}</Dial></Response>"
    async with at_new_york(tmp_path, "21:30:00", rules) as (_, agent):
        call = placing(to=NEW_YORK, twiml=twiml, record=True)
        outcome = await agent.call("create_call", **call)
    told = outcome["error"]["message"]
    assert "(accounts.allow): this account is not allowed; (caps.record): recording" in told
    assert "(hours.outside): it is Tuesday 21:30 (New York time, US) for +1 202" in told
    assert "(hours.outside): it is Wednesday 03:30 (Berlin time, DE) for +49" in told


async def test_a_preview_at_night_says_the_local_time_once(tmp_path: Path) -> None:
    async with at_new_york(tmp_path, "21:30:00") as (_, agent):
        asked = await agent.call("create_call", **placing(to=NEW_YORK))
    assert asked["confirmation"]["preview"].count("21:30") == 1


async def test_a_confirmation_from_the_day_is_not_valid_at_night(tmp_path: Path) -> None:
    async with at_new_york(tmp_path, "20:59:00") as (harness, agent):
        asked = await agent.call("create_call", **placing(to=NEW_YORK))
        assert "Outside" not in asked["confirmation"]["preview"]
        harness.clock.advance(60)
        token = asked["confirmation"]["token"]
        late = await agent.call("create_call", **placing(to=NEW_YORK, confirmation_token=token))
        assert harness.changes == []
        again = await agent.confirm("create_call", **placing(to=NEW_YORK))
    assert late["outcome"] == "expired"
    assert "It is Tuesday 21:00 (New York time, US)" in late["reason"]
    assert again["outcome"] == "done"


@pytest.mark.parametrize(("seconds", "outcome"), [(0, "done"), (60, "expired")])
async def test_line_breaks_in_a_party_cannot_fake_the_notice_of_another_party(
    tmp_path: Path, seconds: float, outcome: str
) -> None:
    rules = '[hours]\nunknown = "confirm"\n'
    client = f"<Client>a\nhours.outside {NEW_YORK}</Client>"
    call = placing(to=NEW_YORK, twiml=f"<Response><Dial>{client}</Dial></Response>")
    async with at_new_york(tmp_path, "20:59:00", rules) as (harness, agent):
        asked = await agent.call("create_call", **call)
        harness.clock.advance(seconds)
        token = asked["confirmation"]["token"]
        used = await agent.call("create_call", **call, confirmation_token=token)
    assert used["outcome"] == outcome


async def test_a_confirmation_from_the_night_is_valid_by_day(tmp_path: Path) -> None:
    async with at_new_york(tmp_path, "07:59:00") as (harness, agent):
        asked = await agent.call("create_call", **placing(to=NEW_YORK))
        harness.clock.advance(60)
        token = asked["confirmation"]["token"]
        done = await agent.call("create_call", **placing(to=NEW_YORK, confirmation_token=token))
    assert "Outside" in asked["confirmation"]["preview"]
    assert done["outcome"] == "done"


@pytest.mark.parametrize("is_at_use", [True, False])
async def test_an_approval_from_the_day_is_not_valid_at_night(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, *, is_at_use: bool
) -> None:
    rules, call = '[confirm]\nplace = "operator"\n', placing(to=NEW_YORK)
    opening = at_new_york(tmp_path, "20:59:00", rules, calls_mcp_state_url=sqlite_url)
    async with opening as (harness, agent):
        await approve_next(harness, agent, call)
        if is_at_use:
            as_it_is_found(monkeypatch, lambda: harness.clock.advance(60))
        else:
            harness.clock.advance(60)
        late = await agent.call("create_call", **call)
        again = await agent.call("create_call", **call)
        assert harness.changes == []
    assert late["outcome"] == "expired"
    assert "It is Tuesday 21:00 (New York time, US)" in late["reason"]
    assert again["outcome"] == "awaiting_operator"
    assert AT_NIGHT in again["confirmation"]["preview"]


async def test_at_night_the_operator_decides_if_the_policy_says_so(
    tmp_path: Path, sqlite_url: str
) -> None:
    rules = '[hours]\noutside = "operator"\n'
    async with at_new_york(tmp_path, "20:59:00", rules, calls_mcp_state_url=sqlite_url) as (
        harness,
        agent,
    ):
        asked = await agent.call("create_call", **placing(to=NEW_YORK))
        harness.clock.advance(60)
        token = asked["confirmation"]["token"]
        late = await agent.call("create_call", **placing(to=NEW_YORK, confirmation_token=token))
        again = await agent.call("create_call", **placing(to=NEW_YORK))
        assert harness.changes == []
    assert late["error"]["kind"] == "invalid_confirmation"
    assert again["outcome"] == "awaiting_operator"


@pytest.mark.parametrize(
    ("number", "now", "text"),
    [
        pytest.param(
            "+12025550171", "2026-01-06T12:14", "Tuesday 07:14 (New York time, US)", id="winter"
        ),
        pytest.param(
            "+12025550171", "2026-07-07T11:14", "Tuesday 07:14 (New York time, US)", id="summer"
        ),
        pytest.param(
            "+12025550171", "2026-03-08T06:59", "Sunday 01:59 (New York time, US)", id="before"
        ),
        pytest.param(
            "+12025550171", "2026-03-08T07:00", "Sunday 03:00 (New York time, US)", id="after"
        ),
        pytest.param(
            "+919876543210", "2026-01-06T12:14", "Tuesday 17:44 (Calcutta time, IN)", id="half"
        ),
        pytest.param(
            "+79161234567",
            "2026-01-06T12:14",
            "between Tuesday 14:14 and Wednesday 00:14 (RU)",
            id="several zones",
        ),
        pytest.param("+18005551234", "2026-01-06T12:14", "", id="toll-free"),
        pytest.param("+15005550006", "2026-01-06T12:14", "", id="personal"),
        pytest.param("sip:bob@example.com", "2026-01-06T12:14", "", id="no number"),
        pytest.param("+999", "2026-01-06T12:14", "", id="no country"),
    ],
)
def test_the_local_time_is_that_of_the_numbers_prefix(number: str, now: str, text: str) -> None:
    assert str(local_times(number, at(now))) == text


def test_zones_with_the_same_time_count_once_and_the_earliest_comes_first() -> None:
    assert len(local_times("+447911123456", at("2026-01-06T12:14")).times) == 1
    hours = [each.hour for each in local_times("+61412345678", at("2026-01-06T12:14")).times]
    assert hours == sorted(hours)
