from collections import Counter
from collections.abc import Generator
from contextlib import closing

import pytest

from calls_mcp.emulator import Call, CallStore, ManualClock, seed_history

NOW = ManualClock().now
DAY = 86_400


@pytest.fixture
def store(clock: ManualClock) -> Generator[CallStore]:
    with closing(CallStore(":memory:", clock)) as store:
        yield store


def history(seed: int, calls: int, now: float = NOW) -> tuple[Call, ...]:
    with closing(CallStore(":memory:", ManualClock(now))) as store:
        seed_history(store, seed, calls, now)
        return store.all()


def test_the_same_seed_tells_the_same_story() -> None:
    assert history(1, 50) == history(1, 50)


def test_another_seed_tells_another_story() -> None:
    assert not set(history(1, 50)) & set(history(2, 50))


def test_a_history_is_over_and_paid(store: CallStore) -> None:
    seed_history(store, 3, 400, NOW)
    calls = store.all()
    assert len(calls) == store.count() == 400
    assert not any(call.live for call in calls)
    for call in calls:
        talked = call.status == "completed"
        assert (call.price is not None) == (call.duration is not None) == talked
        assert call.ended is not None
        assert call.created <= call.ring_at <= call.ended < NOW
        assert call.price is None or call.price < 0


def test_a_history_is_varied_and_spans_several_days() -> None:
    calls = history(4, 400)
    assert set(Counter(call.status for call in calls)) == {
        "completed",
        "busy",
        "no-answer",
        "failed",
    }
    assert {call.direction for call in calls} == {"inbound", "outbound-api"}
    assert len({int(call.created // DAY) for call in calls}) >= 7
    assert max(call.duration or 0 for call in calls) > 300


def test_a_history_is_listed_newest_first() -> None:
    created = [call.created for call in history(5, 100)]
    assert created == sorted(created, reverse=True)


def test_outbound_calls_come_from_our_number_and_inbound_ones_go_to_it() -> None:
    for call in history(6, 100):
        ours = call.from_ if call.direction == "outbound-api" else call.to
        assert ours == "+15005550100"


def test_no_calls_are_no_history() -> None:
    assert history(7, 0) == ()


def test_a_story_is_the_same_within_the_hour() -> None:
    assert history(8, 50, NOW) == history(8, 50, NOW + 3599)
    assert history(8, 50, NOW) != history(8, 50, NOW + 3600)
