"""Recordings: of whole calls and those that are started later, their callbacks and audio."""

import wave
from collections.abc import Mapping
from io import BytesIO

import pytest
import requests
from twilio.base.exceptions import TwilioException
from twilio.rest.api.v2010.account.call.recording import RecordingContext, RecordingInstance

from calls_mcp.emulator import Emulator
from calls_mcp.emulator.recording_store import RecordingOptions
from tests.emulator.callback_receiver import Receiver
from tests.emulator.sdk import SdkClient, sdk_client
from tests.emulator.test_sdk import refused

BUSY, ABRUPT = "+15005550201", "+15005550208"
RINGS, TALKS = 4, 20  # seconds
PATIENCE = 30
EVENTS = ["in-progress", "completed", "absent"]


def recorded(sdk: SdkClient, to: str = "+12025550123", **changes: object) -> RecordingInstance:
    """Record a whole call, and return the recording after its end."""
    sid = sdk.call(to, record=True, **changes)
    sdk.advance(100)
    (recording,) = sdk.client.calls(sid).recordings.list()
    return recording


def reporting(receiver: Receiver, *events: str) -> Mapping[str, object]:
    chosen = {"recording_status_callback_event": list(events)} if events else {}
    return {"record": True, "recording_status_callback": receiver.url, **chosen}


def updated(recording: RecordingContext, status: str) -> RecordingInstance:
    return recording.update(status=status)  # pyright: ignore[reportArgumentType] - its type there is no string


# Whole calls


def test_a_recording_lasts_from_the_answer_to_the_end(sdk: SdkClient) -> None:
    sid = sdk.call(record=True)
    sdk.advance(RINGS - 1)
    assert sdk.client.calls(sid).recordings.list() == []
    sdk.advance(1)
    (live,) = sdk.client.calls(sid).recordings.list()
    sdk.advance(TALKS)
    ended = sdk.client.calls(sid).recordings(live.sid or "").fetch()
    assert (live.status, live.duration) == ("in-progress", None)
    assert (ended.status, ended.duration) == ("completed", str(TALKS))
    assert (ended.call_sid, ended.source, ended.track) == (sid, "OutboundAPI", "both")
    assert str(ended.start_time) == "2030-01-01 12:00:04+00:00"
    assert (ended.channels, ended.price, ended.error_code) == (1, None, None)


def test_the_account_lists_the_recordings_of_all_calls(sdk: SdkClient) -> None:
    first = recorded(sdk)
    second = recorded(sdk, recording_channels="dual", recording_track="inbound")
    recordings = sdk.client.recordings
    assert [each.sid for each in recordings.list()] == [second.sid, first.sid]
    assert [each.sid for each in recordings.list(call_sid=first.call_sid or "")] == [first.sid]
    assert [each.sid for each in recordings.list(page_size=1)] == [second.sid, first.sid]
    assert recordings.list(date_created_before="2029-12-31") == []
    assert len(recordings.list(date_created="2030-01-01")) == 2
    fetched = recordings(second.sid or "").fetch()
    assert (fetched.channels, second.track) == (2, "inbound")
    assert fetched.subresource_uris
    assert fetched.media_url == (
        f"{sdk.emulator.base_url}/2010-04-01/Accounts/{fetched.account_sid}/Recordings/{second.sid}"
    )


def test_a_filter_by_the_time_of_a_recording_includes_the_recording(sdk: SdkClient) -> None:
    sdk.advance(0.7)
    recording = recorded(sdk)
    assert recording.duration == str(TALKS)
    when = recording.date_created
    assert when
    before = sdk.client.recordings.list(date_created_before=when)
    after = sdk.client.recordings.list(date_created_after=when)
    assert [each.sid for each in (*before, *after)] == [recording.sid] * 2


@pytest.mark.parametrize("changes", [{"record": False}, {}])
def test_a_call_is_not_recorded_unless_that_is_requested(
    sdk: SdkClient, changes: Mapping[str, object]
) -> None:
    sid = sdk.call(recording_status_callback="http://127.0.0.1:1/", **changes)
    sdk.advance(100)
    assert sdk.client.calls(sid).recordings.list() == []
    assert sdk.emulator.calls.callbacks.latest(1) == []


def test_a_call_that_is_not_answered_has_no_recording(sdk: SdkClient) -> None:
    sdk.call(BUSY, record=True)
    sdk.advance(100)
    assert sdk.client.recordings.list() == []


def test_the_inbound_record_of_a_call_is_not_recorded_again(sdk: SdkClient) -> None:
    recording = recorded(sdk, "+15005550100")
    assert [each.sid for each in sdk.client.recordings.list()] == [recording.sid]


def test_a_deleted_recording_is_not_found(sdk: SdkClient) -> None:
    recording, other = recorded(sdk), recorded(sdk)
    assert sdk.client.recordings(other.sid or "").delete()
    assert recording.delete()
    assert sdk.client.recordings.list() == []
    with refused(404, 20404):
        sdk.client.recordings(recording.sid or "").fetch()


def test_a_recording_is_only_found_below_its_own_call(sdk: SdkClient) -> None:
    recording, other = recorded(sdk), recorded(sdk)
    with refused(404, 20404):
        sdk.client.calls(other.call_sid or "").recordings(recording.sid or "").fetch()
    with pytest.raises(TwilioException, match="HTTP 404"):
        sdk.client.calls(f"CA{0:032}").recordings.list()


# Callbacks


def test_the_beginning_and_end_are_reported_as_documented(
    sdk: SdkClient, receiver: Receiver
) -> None:
    sdk.call(**reporting(receiver, *EVENTS))
    sdk.advance(100)
    (recording,) = sdk.client.recordings.list()
    common = {
        "AccountSid": sdk.emulator.account.sid,
        "CallSid": recording.call_sid,
        "RecordingSid": recording.sid,
        "RecordingUrl": recording.media_url,
        "RecordingChannels": "1",
        "RecordingStartTime": "Tue, 01 Jan 2030 12:00:04 +0000",
        "RecordingSource": "OutboundAPI",
        "RecordingTrack": "both",
    }
    began, ended = receiver.take(2)
    assert began.form == common | {"RecordingStatus": "in-progress"}
    assert ended.form == common | {"RecordingStatus": "completed", "RecordingDuration": str(TALKS)}
    assert ended.is_signed_with(sdk.emulator.account.auth_token)


@pytest.mark.parametrize(
    ("to", "events", "reported"),
    [
        ("+12025550123", (), ["completed"]),
        ("+12025550123", ("in-progress",), ["in-progress"]),
        (ABRUPT, EVENTS, ["in-progress", "absent"]),
        (ABRUPT, (), []),
        (BUSY, EVENTS, []),
    ],
)
def test_only_requested_events_are_reported(
    sdk: SdkClient, receiver: Receiver, to: str, events: tuple[str, ...], reported: list[str]
) -> None:
    sdk.call(to, **reporting(receiver, *events))
    sdk.advance(100)
    assert sdk.emulator.calls.callbacks.wait(PATIENCE)
    callbacks = sdk.emulator.calls.callbacks.latest(10)
    assert [each.form["RecordingStatus"] for each in callbacks[::-1]] == reported


def test_a_recording_can_be_reported_with_get(sdk: SdkClient, receiver: Receiver) -> None:
    sdk.call(**reporting(receiver), recording_status_callback_method="GET")
    sdk.advance(100)
    (callback,) = receiver.take(1)
    assert (callback.method, callback.query["RecordingStatus"]) == ("GET", "completed")


def test_the_last_status_callback_names_the_recording(sdk: SdkClient, receiver: Receiver) -> None:
    recording = recorded(
        sdk, status_callback=receiver.url, status_callback_event=["answered", "completed"]
    )
    answered, completed = (callback.form for callback in receiver.take(2))
    assert "RecordingSid" not in answered
    assert completed["RecordingSid"] == recording.sid
    assert completed["RecordingDuration"] == str(TALKS)
    assert completed["RecordingUrl"].endswith(f"/Recordings/{recording.sid}")


# Audio


@pytest.mark.parametrize("ending", ["", ".wav"])
@pytest.mark.parametrize(("channels", "count"), [("mono", 1), ("dual", 2)])
def test_the_audio_can_be_downloaded_without_credentials(
    sdk: SdkClient, ending: str, channels: str, count: int
) -> None:
    recording = recorded(sdk, recording_channels=channels)
    media_url = sdk.client.recordings(recording.sid or "").fetch().media_url
    response = requests.get(f"{media_url}{ending}", timeout=30)
    assert response.headers["Content-Type"] == "audio/x-wav"
    with wave.open(BytesIO(response.content)) as audio:
        assert audio.getnchannels() == count
        assert audio.getnframes() / audio.getframerate() == TALKS


def test_there_is_no_audio_before_the_end_or_if_nothing_was_recorded(sdk: SdkClient) -> None:
    sdk.call(ABRUPT, record=True)
    sdk.advance(1)
    sdk.call(record=True)
    sdk.advance(RINGS)
    for recording in sdk.client.recordings.list():
        assert requests.get(recording.media_url or "", timeout=30).status_code == 404
    assert {each.status for each in sdk.client.recordings.list()} == {"in-progress", "absent"}


def test_the_audio_of_another_accounts_path_is_not_found(sdk: SdkClient) -> None:
    recording = recorded(sdk)
    path = f"/2010-04-01/Accounts/AC{9:032}/Recordings/{recording.sid}"
    assert requests.get(sdk.emulator.base_url + path, timeout=30).status_code == 404


# Recordings that are started during a call


def test_a_live_call_can_be_recorded(sdk: SdkClient, receiver: Receiver) -> None:
    recordings = sdk.client.calls(sdk.call()).recordings
    sdk.advance(RINGS + 5)
    started = recordings.create(
        recording_channels="dual",
        recording_status_callback=receiver.url,
        recording_status_callback_event=EVENTS,
    )
    assert (started.status, started.source, started.channels) == (
        "in-progress",
        "StartCallRecordingAPI",
        2,
    )
    sdk.advance(3)
    current = recordings("Twilio.CURRENT")
    assert updated(current, "paused").status == "paused"
    assert updated(current, "in-progress").status == "in-progress"
    stopped = updated(current, "stopped")
    assert (stopped.sid, stopped.status, stopped.duration) == (started.sid, "completed", "3")
    with refused(400, 21220):
        updated(recordings(started.sid or ""), "paused")
    with refused(404, 20404):
        current.fetch()
    reported = [callback.form["RecordingStatus"] for callback in receiver.take(2)]
    assert reported == ["in-progress", "completed"]


def test_a_recording_ends_with_its_call(sdk: SdkClient) -> None:
    call = sdk.client.calls(sdk.call())
    sdk.advance(RINGS + 5)
    started = call.recordings.create()
    sdk.advance(2)
    call.update(status="completed")
    assert (started.fetch().status, started.fetch().duration) == ("completed", "2")


@pytest.mark.parametrize("age", [0, 1, 100])
def test_only_a_call_in_progress_can_be_recorded(sdk: SdkClient, age: float) -> None:
    sid = sdk.call()
    sdk.advance(age)
    with refused(400, 21220):
        sdk.client.calls(sid).recordings.create()


# The store


def test_a_recording_that_has_ended_can_be_added(sdk: SdkClient, receiver: Receiver) -> None:
    sid, store = sdk.call(), sdk.emulator.calls
    options = RecordingOptions(callback_url=receiver.url)
    with store.transaction() as now:
        added = store.recordings.add(sid, "RecordVerb", now - 9, now - 2, options)
    (callback,) = receiver.take(1)
    assert (callback.form["RecordingSid"], callback.form["RecordingDuration"]) == (added.sid, "7")
    assert sdk.client.recordings(added.sid).fetch().source == "RecordVerb"


def test_a_reset_deletes_recordings(sdk: SdkClient) -> None:
    recorded(sdk)
    sdk.emulator.reset()
    assert sdk.client.recordings.list() == []


def test_recordings_survive_a_restart(sdk: SdkClient, tmp_path: object) -> None:
    emulator = Emulator(
        account=sdk.emulator.account, clock=sdk.emulator.clock, database=f"{tmp_path}/calls.sqlite"
    )
    with sdk_client(emulator) as first:
        sid = recorded(first).sid
    with sdk_client(emulator) as second:
        assert [each.sid for each in second.client.recordings.list()] == [sid]
