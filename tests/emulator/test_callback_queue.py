"""The queue of callbacks: any callback can be queued, and each URL gets them in order."""

from collections.abc import Generator
from contextlib import closing

import pytest

from calls_mcp.emulator import Account, CallStore, ManualClock
from calls_mcp.emulator.callbacks import CallbackQueue

from .callback_receiver import Receiver
from .sdk import SdkClient

RECORDING, OTHER = f"RE{1:032}", f"RE{2:032}"
HERE, THERE = "http://127.0.0.1:1/here", "http://127.0.0.1:1/there"


@pytest.fixture
def queue(clock: ManualClock) -> Generator[CallbackQueue]:
    with closing(CallStore(":memory:", clock)) as store:
        yield store.callbacks


def claimed(queue: CallbackQueue) -> list[str]:
    """Claim all due callbacks, and return what they say."""
    return [callback.form["Says"] for callback in queue.claim(10)]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_queued_callback_is_sent_when_it_is_due(
    sdk: SdkClient, receiver: Receiver, clock: ManualClock, account: Account, method: str
) -> None:
    form = {"RecordingSid": RECORDING, "RecordingStatus": "completed"}
    sdk.emulator.calls.callbacks.add(RECORDING, receiver.url, method, form, clock() + 5)
    sdk.emulator.calls.callbacks.wait(0)
    assert receiver.received.empty()
    sdk.advance(5)
    (callback,) = receiver.take(1)
    sent = callback.form if method == "POST" else callback.query
    assert (callback.method, sent) == (method, form | {"AccountSid": account.sid})
    assert callback.is_signed_with(account.auth_token)


def test_callbacks_about_one_thing_to_one_url_are_sent_one_after_the_other(
    queue: CallbackQueue, clock: ManualClock
) -> None:
    for says, due in (("third", 3), ("first", 1), ("second", 1)):
        queue.add(RECORDING, HERE, "POST", {"Says": says}, clock() + due)
    assert claimed(queue) == []
    clock.advance(10)
    for expected in ("first", "second", "third"):
        (callback,) = queue.claim(10)
        assert callback.form["Says"] == expected
        assert claimed(queue) == []
        queue.settle(callback.id, "204", 1)
    assert queue.wait(0)


@pytest.mark.parametrize(("sid", "url"), [(OTHER, HERE), (RECORDING, THERE)])
def test_callbacks_about_other_things_or_to_other_urls_do_not_wait(
    queue: CallbackQueue, clock: ManualClock, sid: str, url: str
) -> None:
    queue.add(RECORDING, HERE, "POST", {"Says": "one"}, clock())
    queue.add(sid, url, "POST", {"Says": "another"}, clock())
    assert claimed(queue) == ["one", "another"]


def test_a_future_callback_does_not_delay_one_that_is_due(
    queue: CallbackQueue, clock: ManualClock
) -> None:
    queue.add(RECORDING, HERE, "POST", {"Says": "later"}, clock() + 60)
    queue.add(RECORDING, HERE, "POST", {"Says": "now"}, clock())
    assert claimed(queue) == ["now"]
