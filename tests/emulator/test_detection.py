"""Asynchronous answering-machine detection: the call goes on, and the result comes later."""

from collections.abc import Mapping

import pytest

from .callback_receiver import Receiver
from .sdk import SdkClient

ANYONE, MACHINE, FAX, ABRUPT = "+12025550123", *(f"+1500555020{n}" for n in (4, 7, 8))
RINGS = 4  # seconds until the answer
IN_THE_BACKGROUND = {"machine_detection": "Enable", "async_amd": "true"}


def reporting(receiver: Receiver) -> Mapping[str, object]:
    return {**IN_THE_BACKGROUND, "async_amd_status_callback": receiver.url}


@pytest.mark.parametrize(
    ("to", "mode", "found", "seconds"),
    [
        (ANYONE, "Enable", "human", 3),
        (ANYONE, "DetectMessageEnd", "human", 3),
        (MACHINE, "Enable", "machine_start", 3),
        (MACHINE, "DetectMessageEnd", "machine_end_beep", 10),
        (FAX, "Enable", "fax", 3),
    ],
)
def test_the_result_comes_some_seconds_after_the_answer(
    sdk: SdkClient, receiver: Receiver, to: str, mode: str, found: str, seconds: float
) -> None:
    account = sdk.emulator.account
    sid = sdk.call(to, **{**reporting(receiver), "machine_detection": mode})
    call = sdk.client.calls(sid)
    sdk.advance(RINGS + seconds - 0.1)
    before = call.fetch()
    sdk.advance(0.1)
    after = call.fetch()
    assert (before.status, before.answered_by) == ("in-progress", None)
    assert (after.status, after.answered_by) == ("in-progress", found)
    (callback,) = receiver.take(1)
    assert callback.form == {
        "CallSid": sid,
        "AccountSid": account.sid,
        "AnsweredBy": found,
        "MachineDetectionDuration": str(seconds * 1000),
    }
    assert callback.is_signed_with(account.auth_token)


def test_the_answer_is_reported_before_the_result_and_the_end_after_it(
    sdk: SdkClient, receiver: Receiver
) -> None:
    events = {"status_callback": receiver.url, "status_callback_event": ["answered", "completed"]}
    sdk.call(**reporting(receiver), **events)
    sdk.advance(100)
    answered, detected, completed = (callback.form for callback in receiver.take(3))
    assert (answered["CallStatus"], answered.get("AnsweredBy")) == ("in-progress", None)
    assert detected["AnsweredBy"] == "human"
    assert (completed["CallStatus"], completed["AnsweredBy"]) == ("completed", "human")
    assert (answered["SequenceNumber"], completed["SequenceNumber"]) == ("0", "1")


def test_the_result_can_be_sent_with_get(sdk: SdkClient, receiver: Receiver) -> None:
    sdk.call(**reporting(receiver), async_amd_status_callback_method="GET")
    sdk.advance(100)
    (callback,) = receiver.take(1)
    assert (callback.method, callback.query["AnsweredBy"]) == ("GET", "human")


@pytest.mark.parametrize(
    ("to", "changes"),
    [
        (ABRUPT, {}),  # it ends before there is a result
        ("+15005550201", {}),
        (ANYONE, {"machine_detection": None}),
        (ANYONE, {"send_digits": "1"}),
        (ANYONE, {"async_amd": "false"}),
    ],
)
def test_nothing_is_sent_without_a_later_result(
    sdk: SdkClient, receiver: Receiver, to: str, changes: Mapping[str, object]
) -> None:
    sdk.call(to, **{**reporting(receiver), **changes})
    sdk.advance(100)
    assert sdk.emulator.calls.count() == 1
    assert sdk.emulator.calls.callbacks.latest(1) == []


def test_the_call_has_the_result_even_if_no_callback_is_wanted(sdk: SdkClient) -> None:
    sid = sdk.call(**IN_THE_BACKGROUND)
    sdk.advance(100)
    assert sdk.client.calls(sid).fetch().answered_by == "human"
    assert sdk.emulator.calls.callbacks.latest(1) == []


def test_the_inbound_record_of_a_call_has_no_result(sdk: SdkClient) -> None:
    sdk.call("+15005550100", **IN_THE_BACKGROUND)
    sdk.advance(100)
    results = {call.direction: call.answered_by for call in sdk.client.calls.list()}
    assert results == {"inbound": None, "outbound-api": "human"}
