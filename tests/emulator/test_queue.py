"""Calls leave the account one after another."""

from pathlib import Path

import pytest

from calls_mcp.emulator import Account, Emulator, ManualClock

from .judge import CALLEE, judging


@pytest.mark.parametrize(
    ("calls_per_second", "waits"),
    [(1, ["1000", "2000", "3000"]), (4, ["250", "500", "750"]), (0.1, ["10000", "20000", "30000"])],
)
def test_calls_wait_for_their_turn(
    account: Account, clock: ManualClock, calls_per_second: float, waits: list[str]
) -> None:
    emulator = Emulator(account=account, clock=clock, calls_per_second=calls_per_second)
    with judging(emulator) as judge:
        sids = [judge.call() for _ in waits]
        assert [judge.client.calls(sid).fetch().queue_time for sid in sids] == waits
        clock.advance(1 / calls_per_second)
        assert [judge.client.calls(sid).fetch().status for sid in sids] == [
            "ringing",
            "queued",
            "queued",
        ]
        clock.advance(1000)
        assert judge.client.calls(judge.call()).fetch().queue_time == waits[0]


def test_calls_that_come_in_do_not_wait(account: Account, clock: ManualClock) -> None:
    emulator = Emulator(account=account, clock=clock)
    with judging(emulator) as judge:
        judge.call("+15005550100")
        judge.call(CALLEE)
        waits = [(call.direction, call.queue_time) for call in judge.client.calls.list()]
        assert waits == [("outbound-api", "2000"), ("inbound", "0"), ("outbound-api", "1000")]


def test_a_call_that_is_canceled_leaves_its_turn_to_the_others(
    account: Account, clock: ManualClock
) -> None:
    with judging(Emulator(account=account, clock=clock)) as judge:
        for sid in [judge.call() for _ in range(5)]:
            judge.client.calls(sid).update(status="canceled")
        assert judge.client.calls(judge.call()).fetch().queue_time == "1000"


def test_a_file_whose_clock_was_ahead_makes_nobody_wait(account: Account, tmp_path: Path) -> None:
    database = str(tmp_path / "calls.db")
    with judging(Emulator(account=account, clock=ManualClock(2_000), database=database)) as judge:
        judge.call()
        judge.client.calls.list()
    with judging(Emulator(account=account, clock=ManualClock(1_000), database=database)) as judge:
        for call in judge.client.calls.list():
            call.update(status="canceled")
        assert judge.client.calls(judge.call()).fetch().queue_time == "1000"
