"""The calls that the overview counts."""

from functools import partial
from urllib.parse import parse_qsl

import pytest

from calls_mcp.console.recent_calls import RecentCalls
from calls_mcp.emulator import past_calls
from tests.console.harness import Harness

pytestmark = pytest.mark.anyio


@pytest.fixture
def rules() -> str:
    return 'place = "never"'


@pytest.fixture
def recent(harness: Harness) -> RecentCalls:
    return RecentCalls(partial(harness.console.invoke, "list_calls"), harness.clock)


async def statuses(recent: RecentCalls) -> dict[str, str | None]:
    calls, error = await recent.read()
    assert error is None
    return {call.sid: call.status for call in calls}


async def page_sizes(harness: Harness, recent: RecentCalls) -> list[str]:
    """The sizes of the pages that are read."""
    before = len(harness.reads)
    await recent.read()
    return [dict(parse_qsl(each.query))["PageSize"] for each in harness.reads[before:]]


def add_past_calls(harness: Harness, count: int) -> None:
    """Add ended calls to the beginning of the list."""
    harness.emulator.calls.add(*past_calls(count, count, harness.clock()))


async def test_only_calls_that_may_have_changed_are_read_again(
    harness: Harness, recent: RecentCalls
) -> None:
    add_past_calls(harness, 120)
    assert len(await statuses(recent)) == 120
    assert await page_sizes(harness, recent) == ["50"]
    sid = await harness.place_call()
    assert (await statuses(recent))[sid] == "in-progress"
    assert await page_sizes(harness, recent) == ["50"]
    add_past_calls(harness, 60)
    assert len(await statuses(recent)) == 181
    harness.clock.advance(3586)
    assert (await statuses(recent))[sid] == "completed"
    assert await page_sizes(harness, recent) == ["50", "1000"]  # its cost is not known
    harness.clock.advance(60)
    assert len(await statuses(recent)) == 181
    assert await page_sizes(harness, recent) == ["50"]
    (call,) = [each for each in (await recent.read())[0] if each.sid == sid]
    assert call.cost


async def test_many_new_calls_are_all_found(harness: Harness, recent: RecentCalls) -> None:
    add_past_calls(harness, 10)
    assert len(await statuses(recent)) == 10
    add_past_calls(harness, 1200)
    assert [*await statuses(recent)] == [call.sid for call in harness.emulator.calls.all()]


async def test_deleted_calls_stay_until_all_are_read_again(
    harness: Harness, recent: RecentCalls
) -> None:
    add_past_calls(harness, 120)
    await recent.read()
    newest, *_, oldest = harness.emulator.calls.all()
    for call in (newest, oldest):
        harness.emulator.calls.delete(call.sid)
    assert len(await statuses(recent)) == 119
    harness.clock.advance(3600)
    await recent.read_all()
    assert len(await statuses(recent)) == 118
