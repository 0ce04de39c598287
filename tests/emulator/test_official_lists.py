"""The official client library lists, streams and pages through calls."""

from collections.abc import Iterable
from datetime import UTC, date, datetime

import pytest
from twilio.rest.api.v2010.account.call import CallInstance

from calls_mcp.emulator import ManualClock, seed_history

from .judge import Judge

BUSY, TALKATIVE = "+15005550201", "+15005550205"


def sids(calls: Iterable[CallInstance]) -> list[str | None]:
    return [call.sid for call in calls]


@pytest.fixture
def past(judge: Judge, clock: ManualClock) -> list[str]:
    """The SIDs of 130 past calls, newest first."""
    seed_history(judge.emulator.calls, 1, 130, clock())
    return [call.sid for call in judge.emulator.calls.all()]


def test_list_and_stream_give_every_call_newest_first(judge: Judge, past: list[str]) -> None:
    assert sids(judge.client.calls.list()) == past
    assert sids(list(judge.client.calls.stream(page_size=7))) == past


@pytest.mark.parametrize(("limit", "page_size"), [(1, None), (50, None), (51, 20), (1000, 20)])
def test_a_limit_is_kept(judge: Judge, past: list[str], limit: int, page_size: int | None) -> None:
    assert sids(judge.client.calls.list(limit=limit, page_size=page_size)) == past[:limit]


def test_pages_lead_forth_and_back(judge: Judge, past: list[str]) -> None:
    first = judge.client.calls.page(page_size=50)
    second = first.next_page()
    assert second
    third = second.next_page()
    assert third
    back = third.previous_page()
    assert back
    assert first.previous_page() is None
    assert third.next_page() is None
    assert sids(first) == past[:50]
    assert sids(second) == sids(back) == past[50:100]
    assert sids(third) == past[100:]
    assert third.previous_page_url
    assert sids(judge.client.calls.get_page(third.previous_page_url)) == past[50:100]


DAY = date(2029, 12, 30)
START, MIDDAY = datetime(2029, 12, 30, tzinfo=UTC), datetime(2029, 12, 30, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("when", "moment"),
    [
        (DAY, START),
        (START, START),
        (MIDDAY, MIDDAY),
        ("2029-12-30", START),
        ("2029-12-30T12:00:00Z", MIDDAY),
        ("2029-12-30T13:00:00+01:00", MIDDAY),
    ],
)
@pytest.mark.parametrize("end", ["start", "end"])
def test_a_moment_divides_the_calls_before_it_from_those_after_it(
    judge: Judge, past: list[str], when: object, moment: datetime, end: str
) -> None:
    before = judge.client.calls.list(**{f"{end}_time_before": when}, page_size=10)  # pyright: ignore[reportArgumentType] - the form under test
    after = judge.client.calls.list(**{f"{end}_time_after": when}, page_size=10)  # pyright: ignore[reportArgumentType] - likewise
    assert all((_time(call, end) or moment) <= moment for call in before)
    assert all((_time(call, end) or moment) >= moment for call in after)
    assert sids([*after, *before]) == past
    assert before
    assert after
    on_the_day = judge.client.calls.list(**{f"{end}_time": when})  # pyright: ignore[reportArgumentType] - likewise
    times = {call.sid: _time(call, end) for call in (*after, *before)}
    assert sids(on_the_day) == [sid for sid, time in times.items() if time and time.date() == DAY]


def _time(call: CallInstance, end: str) -> datetime | None:
    return call.start_time if end == "start" else call.end_time
