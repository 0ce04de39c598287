"""Callbacks: parameters, signatures, receivers and the queue."""

import socket
from base64 import b64encode
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from calls_mcp.emulator import Account, CallStore, Emulator, ManualClock
from calls_mcp.emulator.callbacks import CallbackQueue
from calls_mcp.emulator.testing import running

from .api.test_lists import past
from .callback_receiver import Receiver
from .sdk import CALLEE, CALLER, SdkClient, sdk_client

BUSY, NO_ANSWER, FAILED, MACHINE = (f"+1500555020{n}" for n in (1, 2, 3, 4))
RECORDING, OTHER = f"RE{1:032}", f"RE{2:032}"
HERE, THERE = "http://127.0.0.1:1/here", "http://127.0.0.1:1/there"
EVENTS = ["initiated", "ringing", "answered", "completed"]


def reporting(receiver: Receiver, *events: str) -> Mapping[str, object]:
    chosen = {"status_callback_event": list(events)} if events else {}
    return {"status_callback": receiver.url} | chosen


def test_every_event_is_sent_in_order_as_documented(
    sdk: SdkClient, receiver: Receiver, account: Account
) -> None:
    sid = sdk.call(**reporting(receiver, *EVENTS))
    forms: list[dict[str, str]] = []
    for seconds, count in ((1, 2), (3, 1), (20, 1)):  # each when its time has come
        sdk.advance(seconds)
        forms += [callback.form for callback in receiver.take(count)]
        assert receiver.received.empty()
    common = {
        "CallSid": sid,
        "AccountSid": account.sid,
        "From": CALLER,
        "To": CALLEE,
        "Caller": CALLER,
        "Called": CALLEE,
        "Direction": "outbound-api",
        "ApiVersion": "2010-04-01",
        "CallbackSource": "call-progress-events",
        **{
            f"{party}{name}": value
            for party in ("From", "To", "Caller", "Called")
            for name, value in {"City": "", "State": "", "Zip": "", "Country": "US"}.items()
        },
    }
    changing: list[tuple[str, str, str, dict[str, str]]] = [
        ("initiated", "0", "Tue, 01 Jan 2030 12:00:01 +0000", {}),
        ("ringing", "1", "Tue, 01 Jan 2030 12:00:01 +0000", {}),
        ("in-progress", "2", "Tue, 01 Jan 2030 12:00:04 +0000", {}),
        (
            "completed",
            "3",
            "Tue, 01 Jan 2030 12:00:24 +0000",
            {"CallDuration": "20", "Duration": "1", "SipResponseCode": "200"},
        ),
    ]
    assert forms == [
        common | {"CallStatus": status, "SequenceNumber": number, "Timestamp": when} | more
        for status, number, when, more in changing
    ]


@pytest.mark.parametrize(
    ("to", "statuses", "code"),
    [
        (BUSY, ["initiated", "ringing", "busy"], "486"),
        (NO_ANSWER, ["initiated", "ringing", "no-answer"], "487"),
        (FAILED, ["initiated", "failed"], "404"),
    ],
)
def test_an_unanswered_call_is_reported_until_its_end(
    sdk: SdkClient, receiver: Receiver, to: str, statuses: list[str], code: str
) -> None:
    sdk.call(to, **reporting(receiver, *EVENTS))
    sdk.advance(100)
    forms = [callback.form for callback in receiver.take(len(statuses))]
    assert [form["CallStatus"] for form in forms] == statuses
    assert (forms[-1]["CallDuration"], forms[-1]["Duration"]) == ("0", "0")
    assert [form.get("SipResponseCode") for form in forms] == [None] * (len(forms) - 1) + [code]


def test_a_canceled_or_ended_call_is_reported(sdk: SdkClient, receiver: Receiver) -> None:
    canceled = sdk.call(**reporting(receiver))
    sdk.advance(1)
    sdk.client.calls(canceled).update(status="canceled")
    (callback,) = receiver.take(1)
    assert callback.form["CallStatus"] == "canceled"
    assert callback.form["SipResponseCode"] == "487"
    detection = {"machine_detection": "DetectMessageEnd"}
    ended = sdk.call(MACHINE, **reporting(receiver, "answered", "completed"), **detection)
    sdk.advance(8)
    sdk.client.calls(ended).update(status="completed")
    answered, over = (callback.form for callback in receiver.take(2))
    assert (answered["CallStatus"], answered["AnsweredBy"]) == ("in-progress", "machine_end_beep")
    assert (over["CallStatus"], over["CallDuration"]) == ("completed", "4")


def test_a_call_that_ends_in_the_queue_is_not_reported(sdk: SdkClient, receiver: Receiver) -> None:
    sid = sdk.call(**reporting(receiver, *EVENTS))
    sdk.client.calls(sid).update(status="canceled")
    sdk.advance(100)
    assert sdk.client.calls(sid).fetch().status == "canceled"
    assert sdk.emulator.calls.callbacks.latest(1) == []


@pytest.mark.parametrize(
    ("to", "country"),
    [("+442079460000", "GB"), ("+4930123456", "DE"), ("+99912345678", ""), ("client:kate", None)],
)
def test_a_number_is_reported_with_its_country(
    sdk: SdkClient, receiver: Receiver, to: str, country: str | None
) -> None:
    sdk.call(to, **reporting(receiver))
    sdk.advance(100)
    (callback,) = receiver.take(1)
    places = {name: callback.form.get(name) for name in ("ToCountry", "CalledCountry")}
    assert places == {"ToCountry": country, "CalledCountry": country}
    assert callback.form["FromCountry"] == "US"


def test_known_facts_about_the_caller_are_reported(sdk: SdkClient, receiver: Receiver) -> None:
    call = past(1, "2029-12-31T00:00+00:00")._replace(
        caller_name="KATE", forwarded_from="+12025550199", parent_call_sid=f"CA{7:032}"
    )
    sdk.emulator.calls.add(call._replace(callback_url=receiver.url))
    (callback,) = receiver.take(1)
    names = ("CallerName", "ForwardedFrom", "ParentCallSid")
    assert [callback.form[name] for name in names] == ["KATE", "+12025550199", f"CA{7:032}"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("query", ["", "?order=7&name=%C3%A9"])
def test_a_callback_is_signed(
    sdk: SdkClient, receiver: Receiver, account: Account, query: str, method: str
) -> None:
    sid = sdk.call(status_callback=receiver.url + query, status_callback_method=method)
    sdk.advance(100)
    (callback,) = receiver.take(1)
    sent, other = (callback.form, callback.query)[:: 1 if method == "POST" else -1]
    assert callback.method == method
    assert callback.url.startswith(receiver.url + query)
    assert (sent["CallSid"], sent["CallStatus"], sent["SequenceNumber"]) == (sid, "completed", "0")
    assert "CallSid" not in other
    assert callback.is_signed_with(account.auth_token)
    assert not callback.is_signed_with("another token")


def test_an_update_replaces_a_receiver_that_is_down(sdk: SdkClient, receiver: Receiver) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        port = closed.getsockname()[1]
    sid = sdk.call(status_callback=f"http://127.0.0.1:{port}/")
    sdk.client.calls(sid).update(status_callback=receiver.url)
    sdk.advance(100)
    assert receiver.statuses_of(1) == ["completed"]


def test_an_update_changes_the_callback_url(sdk: SdkClient, receiver: Receiver) -> None:
    sid = sdk.call(**reporting(receiver, *EVENTS))
    sdk.advance(4)
    receiver.take(3)
    elsewhere = f"{receiver.url}/other"
    sdk.client.calls(sid).update(status_callback=elsewhere, status_callback_method="GET")
    sdk.advance(100)
    (callback,) = receiver.take(1)
    assert (callback.method, callback.url.partition("?")[0]) == ("GET", elsewhere)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_credentials_in_the_url_are_sent_and_a_fragment_is_not(
    sdk: SdkClient, receiver: Receiver, method: str
) -> None:
    address = f"{receiver.url.replace('://', '://user:pass@')}?a=b#c"
    sdk.call(status_callback=address, status_callback_method=method)
    sdk.advance(100)
    (callback,) = receiver.take(1)
    assert callback.authorization == f"Basic {b64encode(b'user:pass').decode()}"
    assert callback.url.startswith(f"{receiver.url}?a=b")
    assert "#" not in callback.url


def test_a_call_with_an_application_ignores_the_callback_url(
    sdk: SdkClient, receiver: Receiver
) -> None:
    application = {"twiml": None, "application_sid": f"AP{0:032}"}
    sdk.call(**application, **reporting(receiver, *EVENTS))
    sdk.advance(100)
    sid = sdk.call(**reporting(receiver))
    sdk.advance(100)
    (callback,) = receiver.take(1)
    assert callback.form["CallSid"] == sid


def test_no_callback_is_sent_to_other_machines_by_default(
    sdk: SdkClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    lookup = socket.getaddrinfo

    def watched(host: str, port: int, *arguments: int) -> object:
        looked_up.append(host)
        return lookup(host, port, *arguments)

    sdk.call(status_callback="http://192.0.2.1/status")
    sdk.call(status_callback="https://example.com/status")
    sdk.call(**reporting(receiver))
    monkeypatch.setattr("socket.getaddrinfo", watched)
    sdk.advance(100)
    receiver.take(1)
    assert {*looked_up} <= {"127.0.0.1"}


def test_callbacks_are_sent_to_other_machines_if_allowed(
    account: Account, clock: ManualClock, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(receiver.url.removesuffix("/status").rpartition(":")[2])
    lookup = socket.getaddrinfo

    def everywhere(_host: str, _port: int, *arguments: int) -> object:
        return lookup("127.0.0.1", port, *arguments)

    with sdk_client(Emulator(account=account, clock=clock, callbacks_anywhere=True)) as sdk:
        sdk.call(status_callback=f"http://elsewhere.example:{port}/status")
        monkeypatch.setattr("socket.getaddrinfo", everywhere)
        clock.advance(100)
        assert receiver.statuses_of(1) == ["completed"]


def test_unsent_callbacks_are_sent_after_a_restart(
    tmp_path: Path, account: Account, clock: ManualClock, receiver: Receiver
) -> None:
    database = str(tmp_path / "calls.sqlite")
    emulator = Emulator(account=account, clock=clock, database=database)
    with sdk_client(emulator) as sdk:
        sid = sdk.call(**reporting(receiver))
    clock.advance(100)
    with closing(CallStore(database, clock)) as store:
        assert [callback.sid for callback in store.callbacks.claim(1)] == [sid]
    with running(emulator):
        assert receiver.statuses_of(1) == ["completed"]


# The queue: any callback can be queued, and each URL gets them in order


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
