from contextlib import closing

from calls_mcp.emulator import Call, CallStore, ManualClock, past_calls

NOW = ManualClock().now
DAY = 86_400


def history(seed: int, calls: int, now: float = NOW) -> tuple[Call, ...]:
    with closing(CallStore(":memory:", ManualClock(now))) as store:
        store.add(*past_calls(seed, calls, now))
        return store.all()


def test_the_same_seed_and_hour_give_the_same_calls() -> None:
    assert history(1, 50) == history(1, 50, NOW + 3599)
    assert not {*history(1, 50)} & {*history(2, 50)}
    assert history(1, 50) != history(1, 50, NOW + 3600)
    assert history(1, 0) == ()


def test_all_past_calls_have_ended_and_have_prices() -> None:
    calls = history(3, 400)
    assert len(calls) == 400
    for call in calls:
        talked = call.status == "completed"
        assert (call.price is not None) == (call.duration is not None) == talked
        assert (call.ended is not None) == talked
        assert call.created <= call.ring_at <= call.updated < NOW
        assert call.price is None or call.price < 0


def test_a_history_is_varied_and_spans_several_days_newest_first() -> None:
    calls = history(4, 400)
    assert {call.status for call in calls} == {"completed", "busy", "no-answer", "failed"}
    assert {call.direction for call in calls} == {"inbound", "outbound-api"}
    assert len({int(call.created // DAY) for call in calls}) >= 7
    assert max(call.duration or 0 for call in calls) > 300
    created = [call.created for call in calls]
    assert created == sorted(created, reverse=True)
    for call in calls:
        ours = call.from_ if call.direction == "outbound-api" else call.to
        assert ours == "+15005550100"
