"""The official client library works with the emulator."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from inspect import signature

import pytest
import requests
from twilio.base.exceptions import TwilioRestException
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.rest import Client
from twilio.rest.api.v2010.account.call import CallInstance, CallList

from calls_mcp.emulator import Account, ManualClock, past_calls

from .sdk import CALLEE, CALLER, TWIML, SdkClient, library_client

PARAMETERS = signature(CallList.create).parameters
MACHINE = "+15005550204"
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


def test_a_call_is_created_and_its_properties_are_typed(sdk: SdkClient) -> None:
    call = sdk.client.calls.create(to=CALLEE, from_=CALLER, twiml=TWIML)
    assert (call.to, call._from, call.status) == (CALLEE, CALLER, "queued")  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the library's name for it
    assert (call.date_created, call.start_time, call.end_time) == (NOON, None, None)
    assert (call.direction, call.duration, call.price) == ("outbound-api", None, None)
    assert (call.price_unit, call.answered_by, call.api_version) == ("USD", None, "2010-04-01")
    assert call.subresource_uris
    assert "recordings" in call.subresource_uris


def test_every_parameter_of_the_library_is_accepted(sdk: SdkClient) -> None:
    sid = sdk.call(**EVERYTHING)
    form = dict(sdk.emulator.requests[0].form)
    assert {*EVERYTHING} | {"to", "from_", "application_sid", "self"} == {*PARAMETERS}
    assert len(form) == len(EVERYTHING) + 1  # plus To and From, without Twiml
    assert form["Record"] == "true"
    assert sdk.client.calls(sid).fetch().status == "queued"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"to": "+15005550001"}, 21217),
        ({"timeout": 601}, 20001),
    ],
)
def test_errors_raise_the_exception_of_the_library(
    sdk: SdkClient, arguments: dict[str, object], code: int
) -> None:
    with refused(400, code) as caught:
        sdk.call(**arguments)
    assert caught.value.method == "POST"
    assert caught.value.msg.startswith("Unable to create record: ")


def test_wrong_credentials_are_a_401(sdk: SdkClient, account: Account) -> None:
    impostor = Account(account.sid, "wrong")
    with library_client(sdk.emulator.base_url, impostor) as client, refused(401, 20003):
        client.calls.create(CALLEE, CALLER, twiml=TWIML)


# Fetch


def test_a_call_is_fetched_in_each_state(sdk: SdkClient) -> None:
    sid = sdk.call()
    seen: list[object] = []
    for pause in (0, 1, 3, 20):
        sdk.advance(pause)
        seen.append(sdk.client.calls(sid).fetch().status)
    assert seen == ["queued", "ringing", "in-progress", "completed"]
    ended = sdk.client.calls(sid).fetch()
    sdk.advance(10)
    billed = sdk.client.calls(sid).fetch()
    assert (ended.duration, ended.price) == ("20", None)
    assert billed.price
    assert Decimal(billed.price) == Decimal("-0.013")
    assert billed.start_time
    assert billed.end_time
    assert NOON <= billed.start_time < billed.end_time < NOON + timedelta(minutes=1)


# Update and delete


def test_a_call_is_redirected_limited_ended_and_deleted(sdk: SdkClient) -> None:
    call = sdk.client.calls.create(MACHINE, CALLER, twiml=TWIML, machine_detection="Enable")
    sdk.advance(10)
    assert call.fetch().answered_by == "machine_start"
    redirection = {"url": "https://example.com/new.xml", "method": "GET", "time_limit": 60}
    assert call.update(**redirection).status == "in-progress"
    completed = call.update(status=CallInstance.UpdateStatus.COMPLETED)
    assert (completed.status, completed.duration) == ("completed", "6")
    with refused(400, 21220):
        call.update(status="completed")
    assert call.delete() is True
    with refused(404, 20404):
        call.delete()


# Everything else


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library's use of aiohttp
async def test_the_async_client_does_the_same(sdk: SdkClient, account: Account) -> None:
    async with AsyncTwilioHttpClient() as http:
        client = Client(account.sid, account.auth_token, http_client=http)
        client.api.base_url = sdk.emulator.base_url
        placed = [await client.calls.create_async(CALLEE, CALLER, twiml=TWIML) for _ in range(3)]
        sdk.advance(100)
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
def test_injected_faults_raise_the_exception_of_the_library(
    sdk: SdkClient, fault: dict[str, str | int], status: int, code: int
) -> None:
    requests.post(f"{sdk.emulator.base_url}/emulator/faults", json=fault, timeout=30)
    with refused(status, code):
        sdk.call()
    assert sdk.client.calls.list() == []


# Lists


def sids(calls: Iterable[CallInstance]) -> list[str | None]:
    return [call.sid for call in calls]


@pytest.fixture
def past(sdk: SdkClient, clock: ManualClock) -> list[str]:
    """The SIDs of 130 past calls, newest first."""
    sdk.emulator.calls.add(*past_calls(1, 130, clock()))
    return [call.sid for call in sdk.emulator.calls.all()]


def test_list_and_stream_return_every_call_newest_first(sdk: SdkClient, past: list[str]) -> None:
    assert sids(sdk.client.calls.list()) == past
    assert sids(list(sdk.client.calls.stream(page_size=7))) == past


@pytest.mark.parametrize(("limit", "page_size"), [(1, None), (50, None), (51, 20), (1000, 20)])
def test_a_limit_is_respected(
    sdk: SdkClient, past: list[str], limit: int, page_size: int | None
) -> None:
    assert sids(sdk.client.calls.list(limit=limit, page_size=page_size)) == past[:limit]


def test_pages_link_to_the_next_and_previous_page(sdk: SdkClient, past: list[str]) -> None:
    first = sdk.client.calls.page(page_size=50)
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
    assert sids(sdk.client.calls.get_page(third.previous_page_url)) == past[50:100]


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
def test_a_time_filter_separates_earlier_and_later_calls(
    sdk: SdkClient, past: list[str], when: object, moment: datetime, end: str
) -> None:
    before = sdk.client.calls.list(**{f"{end}_time_before": when}, page_size=10)  # pyright: ignore[reportArgumentType] - the form under test
    after = sdk.client.calls.list(**{f"{end}_time_after": when}, page_size=10)  # pyright: ignore[reportArgumentType] - likewise
    assert all((_time(call, end) or moment) <= moment for call in before)
    assert all((_time(call, end) or moment) >= moment for call in after)
    ended = sids(sdk.client.calls.list(status="completed"))  # of the others, no end is shown
    assert sids([*after, *before]) == (past if end == "start" else ended)
    assert before
    assert after
    on_the_day = sdk.client.calls.list(**{f"{end}_time": when})  # pyright: ignore[reportArgumentType] - likewise
    times = {call.sid: _time(call, end) for call in (*after, *before)}
    assert sids(on_the_day) == [sid for sid, time in times.items() if time and time.date() == DAY]


def _time(call: CallInstance, end: str) -> datetime | None:
    return call.start_time if end == "start" else call.end_time
