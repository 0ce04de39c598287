"""The official client library can't tell the difference."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from inspect import signature

import pytest
import requests
from twilio.base.exceptions import TwilioRestException
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.rest import Client
from twilio.rest.api.v2010.account.call import CallInstance, CallList

from calls_mcp.emulator import Account

from .judge import CALLEE, CALLER, TWIML, Judge, client_of

PARAMETERS = signature(CallList.create).parameters
BUSY, TALKATIVE, MACHINE = "+15005550201", "+15005550205", "+15005550204"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)

EVERYTHING = {
    "method": "GET",
    "fallback_url": "https://example.com/fallback",
    "fallback_method": "GET",
    "status_callback": "https://example.com/status",
    "status_callback_event": ["initiated", "ringing", "answered", "completed"],
    "status_callback_method": "GET",
    "send_digits": "ww1234#",
    "timeout": 30,
    "record": True,
    "recording_channels": "dual",
    "recording_status_callback": "https://example.com/recording",
    "recording_status_callback_method": "GET",
    "recording_status_callback_event": ["in-progress", "completed", "absent"],
    "sip_auth_username": "kate",
    "sip_auth_password": "made-up",
    "machine_detection": "Enable",
    "machine_detection_timeout": 10,
    "trim": "do-not-trim",
    "caller_id": CALLER,
    "machine_detection_speech_threshold": 2000,
    "machine_detection_speech_end_threshold": 1000,
    "machine_detection_silence_timeout": 4000,
    "async_amd": "true",
    "async_amd_status_callback": "https://example.com/amd",
    "async_amd_status_callback_method": "GET",
    "byoc": f"BY{0:032}",
    "call_reason": "Your table is ready",
    "call_token": "token",
    "recording_track": "both",
    "time_limit": 600,
    "url": "https://example.com/voice.xml",
    "twiml": None,
    "client_notification_url": "https://example.com/notify",
    "passports": "token",
    "recording_configuration_id": "none",
}


def refused(status: int, code: int) -> "pytest.RaisesExc[TwilioRestException]":
    return pytest.RaisesExc(
        TwilioRestException, check=lambda error: (error.status, error.code) == (status, code)
    )


# Create


def test_a_call_is_created_and_its_properties_are_typed(judge: Judge) -> None:
    call = judge.client.calls.create(to=CALLEE, from_=CALLER, twiml=TWIML)
    assert (call.to, call._from, call.status) == (CALLEE, CALLER, "queued")  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the library's name for it
    assert (call.date_created, call.start_time, call.end_time) == (NOON, None, None)
    assert (call.direction, call.duration, call.price) == ("outbound-api", None, None)
    assert (call.price_unit, call.answered_by, call.api_version) == ("USD", None, "2010-04-01")
    assert call.subresource_uris
    assert "recordings" in call.subresource_uris


def test_every_parameter_of_the_library_is_accepted(judge: Judge) -> None:
    sid = judge.call(wishes=EVERYTHING)
    form = dict(judge.emulator.requests[0].form)
    assert {*EVERYTHING} | {"to", "from_", "application_sid", "self"} == {*PARAMETERS}
    assert len(form) == len(EVERYTHING) + 1  # To and From beside them, and no Twiml
    assert form["Record"] == "true"
    assert judge.client.calls(sid).fetch().status == "queued"


@pytest.mark.parametrize(
    ("wishes", "code"),
    [
        ({"to": "+15005550001"}, 21217),
        ({"from_": "+12025550199"}, 21210),
        ({"url": "nowhere"}, 21205),
        ({"to": ""}, 21201),
        ({"timeout": 601}, 20001),
    ],
)
def test_refusals_arrive_as_the_librarys_exception(
    judge: Judge, wishes: dict[str, object], code: int
) -> None:
    with refused(400, code) as caught:
        judge.call(wishes=wishes)
    assert caught.value.method == "POST"
    assert caught.value.msg.startswith("Unable to create record: ")


def test_wrong_credentials_are_a_401(judge: Judge, account: Account) -> None:
    stranger = Account(account.sid, "wrong")
    with client_of(judge.emulator.base_url, stranger) as client, refused(401, 20003):
        client.calls.create(CALLEE, CALLER, twiml=TWIML)


# Fetch


def test_a_call_is_fetched_through_its_whole_life(judge: Judge) -> None:
    sid = judge.call()
    seen: list[object] = []
    for pause in (0, 1, 3, 20):
        judge.wait(pause)
        seen.append(judge.client.calls(sid).fetch().status)
    assert seen == ["queued", "ringing", "in-progress", "completed"]
    ended = judge.client.calls(sid).fetch()
    judge.wait(10)
    billed = judge.client.calls(sid).fetch()
    assert (ended.duration, ended.price) == ("20", None)
    assert billed.price
    assert Decimal(billed.price) == Decimal("-0.013")
    assert billed.start_time
    assert billed.end_time
    assert NOON <= billed.start_time < billed.end_time < NOON + timedelta(minutes=1)


# Update


def test_a_talk_is_redirected_limited_and_ended_and_then_left_alone(judge: Judge) -> None:
    call = judge.client.calls.create(MACHINE, CALLER, twiml=TWIML, machine_detection="Enable")
    judge.wait(10)
    assert call.fetch().answered_by == "machine_start"
    redirection = {"url": "https://example.com/new.xml", "method": "GET", "time_limit": 60}
    assert call.update(**redirection).status == "in-progress"
    completed = call.update(status=CallInstance.UpdateStatus.COMPLETED)
    assert (completed.status, completed.duration) == ("completed", "6")
    with refused(400, 21220):
        call.update(status="completed")


@pytest.mark.parametrize(
    ("verbs", "duration"),
    [
        ("<Hangup/>", "0"),
        ("<Say>Hello</Say><Hangup/>", "0"),
        ('<Pause length="5"/><Pause/><Hangup/><Pause length="9"/>', "6"),
        ('<Pause length="soon"/><Hangup/>', "0"),
        ('<Pause length="500"/><Hangup/>', "20"),
        ("<Pause/>", "20"),
        ("<Hangup>", "20"),
    ],
)
def test_instructions_can_hang_up(judge: Judge, verbs: str, duration: str) -> None:
    sid = judge.call(wishes={"twiml": f"<Response>{verbs}</Response>"})
    judge.wait(100)
    assert judge.client.calls(sid).fetch().duration == duration


@pytest.mark.parametrize(
    ("to", "age", "duration"),
    [(TALKATIVE, 10, "8"), (CALLEE, 0, "2"), (CALLEE, 22, "20"), (BUSY, 0, None)],
)
def test_a_redirection_can_hang_up(judge: Judge, to: str, age: float, duration: str | None) -> None:
    sid = judge.call(to)
    judge.wait(age)
    pause = '<Response><Pause length="2"/><Hangup/></Response>'
    assert judge.client.calls(sid).update(twiml=pause).status != "completed"
    judge.wait(100)
    assert judge.client.calls(sid).fetch().duration == duration


# Delete


def test_a_record_is_deleted(judge: Judge) -> None:
    sid = judge.call()
    with refused(400, 21220):
        judge.client.calls(sid).delete()
    judge.wait(100)
    assert judge.client.calls(sid).delete() is True
    with refused(404, 20404):
        judge.client.calls(sid).delete()


# Everything else


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library's use of aiohttp
async def test_the_async_client_does_the_same(judge: Judge, account: Account) -> None:
    async with AsyncTwilioHttpClient() as http:
        client = Client(account.sid, account.auth_token, http_client=http)
        client.api.base_url = judge.emulator.base_url
        placed = [await client.calls.create_async(CALLEE, CALLER, twiml=TWIML) for _ in range(3)]
        judge.wait(100)
        assert (await placed[0].fetch_async()).status == "completed"
        listed = [call.sid async for call in await client.calls.stream_async(page_size=1)]
        assert listed == [call.sid for call in placed[::-1]]
        assert await placed[0].delete_async()
        with refused(404, 20404):
            await placed[0].fetch_async()


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"kind": "rate-limit"}, 429, 20429),
        ({"kind": "error", "status": 500}, 500, 20500),
        ({"kind": "html"}, 502, 502),
    ],
)
def test_faults_arrive_as_the_librarys_exception(
    judge: Judge, fault: dict[str, str | int], status: int, code: int
) -> None:
    requests.post(f"{judge.emulator.base_url}/emulator/faults", json=fault, timeout=30)
    with refused(status, code):
        judge.call()
    assert judge.client.calls.list() == []
