"""The official client library can't tell the difference."""

from collections.abc import Generator, Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import islice

import pytest
import requests
from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.rest import Client
from twilio.rest.api.v2010.account.call import CallInstance

from calls_mcp.emulator import Account, Emulator, ManualClock, seed_history
from calls_mcp.emulator.testing import running

from .judge import CALLEE, CALLER, TWIML, Judge, client_of

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
}


@pytest.fixture
def emulator(account: Account, clock: ManualClock) -> Generator[Emulator]:
    with running(Emulator(account=account, clock=clock, calls_per_second=1000)) as emulator:
        yield emulator


@pytest.fixture
def judge(emulator: Emulator, clock: ManualClock) -> Generator[Judge]:
    with client_of(emulator.base_url, emulator.account) as client:
        yield Judge(client, clock, emulator.base_url)


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


def test_every_documented_parameter_is_accepted(judge: Judge, emulator: Emulator) -> None:
    sid = judge.call(wishes=EVERYTHING)
    form = dict(emulator.requests[0].form)
    assert len(form) == len(EVERYTHING) + 1  # To and From beside them, and no Twiml
    assert form["Record"] == "true"
    assert judge.client.calls(sid).fetch().status == "queued"


@pytest.mark.parametrize(
    "instructions",
    [{"url": "https://example.com"}, {"twiml": TWIML}, {"application_sid": f"AP{0:032}"}],
)
def test_each_kind_of_instructions_will_do(judge: Judge, instructions: dict[str, str]) -> None:
    assert judge.client.calls.create(CALLEE, CALLER, **instructions).sid


@pytest.mark.parametrize(
    ("wishes", "code"),
    [
        ({"to": "12025550123"}, 21211),
        ({"to": "+15005550001"}, 21217),
        ({"to": "+15005550002"}, 21214),
        ({"to": "+15005550003"}, 21215),
        ({"to": "+15005550004"}, 21216),
        ({"from_": "+15005550001"}, 21212),
        ({"from_": "+12025550199"}, 21210),
        ({"url": "nowhere"}, 21205),
        ({"to": ""}, 21201),
        ({"from_": ""}, 21213),
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


def test_wrong_credentials_are_a_401(emulator: Emulator) -> None:
    stranger = Account(emulator.account.sid, "wrong")
    with client_of(emulator.base_url, stranger) as client, refused(401, 20003):
        client.calls.create(CALLEE, CALLER, twiml=TWIML)


# Fetch


def test_a_call_is_fetched_through_its_whole_life(judge: Judge, clock: ManualClock) -> None:
    sid = judge.call()
    seen: list[object] = []
    for pause in (0, 1, 3, 20):
        clock.advance(pause)
        seen.append(judge.client.calls(sid).fetch().status)
    assert seen == ["queued", "ringing", "in-progress", "completed"]
    ended = judge.client.calls(sid).fetch()
    clock.advance(10)
    billed = judge.client.calls(sid).fetch()
    assert (ended.duration, ended.price) == ("20", None)
    assert billed.price
    assert Decimal(billed.price) == Decimal("-0.013")
    assert billed.start_time
    assert billed.end_time
    assert NOON <= billed.start_time < billed.end_time < NOON + timedelta(minutes=1)


def test_an_instance_fetches_itself(judge: Judge, clock: ManualClock) -> None:
    call = judge.client.calls.create(MACHINE, CALLER, twiml=TWIML, machine_detection="Enable")
    clock.advance(10)
    assert call.fetch().answered_by == "machine_start"


def test_an_unknown_call_is_a_404(judge: Judge) -> None:
    with refused(404, 20404) as caught:
        judge.client.calls(f"CA{0:032}").fetch()
    assert "was not found" in caught.value.msg


# Update


@pytest.mark.parametrize(
    "change",
    [
        {"url": "https://example.com/new.xml", "method": "GET"},
        {"twiml": "<Response><Say>Goodbye</Say></Response>"},
        {"status_callback": "https://example.com", "status_callback_method": "GET"},
        {"fallback_url": "https://example.com", "fallback_method": "POST", "url": "http://a.test"},
    ],
)
def test_a_talk_is_redirected_and_goes_on(
    judge: Judge, clock: ManualClock, change: dict[str, str]
) -> None:
    sid = judge.call(TALKATIVE)
    clock.advance(10)
    assert judge.client.calls(sid).update(**change).status == "in-progress"


def test_a_queued_call_is_canceled_and_a_talk_completed(judge: Judge, clock: ManualClock) -> None:
    talking = judge.call(TALKATIVE)
    clock.advance(10)
    queued = judge.client.calls.create(CALLEE, CALLER, twiml=TWIML)
    assert queued.update(status=CallInstance.UpdateStatus.CANCELED).status == "canceled"
    completed = judge.client.calls(talking).update(status="completed")
    assert (completed.status, completed.duration) == ("completed", "7")


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
def test_instructions_can_hang_up(
    judge: Judge, clock: ManualClock, verbs: str, duration: str
) -> None:
    sid = judge.call(wishes={"twiml": f"<Response>{verbs}</Response>"})
    clock.advance(100)
    assert judge.client.calls(sid).fetch().duration == duration


@pytest.mark.parametrize(
    ("to", "age", "duration"),
    [(TALKATIVE, 10, "9"), (CALLEE, 0, "2"), (CALLEE, 22, "20"), (BUSY, 0, None)],
)
def test_a_redirection_can_hang_up(
    judge: Judge, clock: ManualClock, to: str, age: float, duration: str | None
) -> None:
    sid = judge.call(to)
    clock.advance(age)
    pause = '<Response><Pause length="2"/><Hangup/></Response>'
    assert judge.client.calls(sid).update(twiml=pause).status != "completed"
    clock.advance(100)
    assert judge.client.calls(sid).fetch().duration == duration


def test_a_time_limit_is_obeyed(judge: Judge, clock: ManualClock) -> None:
    sid = judge.call(TALKATIVE)
    clock.advance(10)
    judge.client.calls(sid).update(time_limit=60)
    clock.advance(100)
    assert judge.client.calls(sid).fetch().duration == "60"


def test_a_call_that_is_over_is_not_updated(judge: Judge, clock: ManualClock) -> None:
    sid = judge.call()
    clock.advance(100)
    with refused(400, 21220):
        judge.client.calls(sid).update(status="completed")


# Delete


def test_a_record_is_deleted(judge: Judge, clock: ManualClock) -> None:
    sid = judge.call()
    with refused(400, 21220):
        judge.client.calls(sid).delete()
    clock.advance(100)
    assert judge.client.calls(sid).delete() is True
    with refused(404, 20404):
        judge.client.calls(sid).delete()


# List


def sids(calls: Iterable[CallInstance]) -> list[str | None]:
    return [call.sid for call in calls]


@pytest.fixture
def past(emulator: Emulator, clock: ManualClock) -> list[str]:
    """The SIDs of 130 past calls, newest first."""
    seed_history(emulator.calls, 1, 130, clock())
    return [call.sid for call in emulator.calls.all()]


def test_list_and_stream_give_every_call_newest_first(judge: Judge, past: list[str]) -> None:
    assert sids(judge.client.calls.list()) == past
    assert sids(list(judge.client.calls.stream(page_size=7))) == past


@pytest.mark.parametrize("limit", [1, 49, 50, 51, 130, 1000])
@pytest.mark.parametrize("page_size", [None, 20])
def test_a_limit_is_kept(judge: Judge, past: list[str], limit: int, page_size: int | None) -> None:
    assert sids(judge.client.calls.list(limit=limit, page_size=page_size)) == past[:limit]


def test_pages_lead_forth_and_back(judge: Judge, past: list[str]) -> None:
    first = judge.client.calls.page(page_size=50)
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


def test_a_page_can_be_opened_by_its_url(judge: Judge, past: list[str]) -> None:
    url = judge.client.calls.page(page_size=100).next_page_url
    assert url
    assert sids(judge.client.calls.get_page(url)) == past[100:]


def test_a_stream_reads_no_page_before_it_is_needed(
    judge: Judge, past: list[str], emulator: Emulator
) -> None:
    stream = judge.client.calls.stream(page_size=10)
    assert sids(list(islice(stream, 10))) == past[:10]
    assert len(emulator.requests) == 1


def test_a_page_that_is_too_large_is_refused(judge: Judge) -> None:
    with pytest.raises(TwilioException, match=r"Unable to fetch page.*HTTP 400"):
        judge.client.calls.list(page_size=1001)


def test_filters_by_party_status_and_parent(judge: Judge, clock: ManualClock) -> None:
    busy, talking = judge.call(BUSY), judge.call(TALKATIVE)
    clock.advance(10)
    calls = judge.client.calls
    assert sids(calls.list(to=BUSY)) == [busy]
    assert sids(calls.list(from_=CALLER)) == [talking, busy]
    assert sids(calls.list(status=CallInstance.Status.IN_PROGRESS)) == [talking]
    assert sids(calls.list(to=TALKATIVE, from_=CALLER, status="busy")) == []
    assert sids(calls.list(parent_call_sid=busy)) == []


DAY = date(2029, 12, 30)
START, MIDDAY = datetime(2029, 12, 30, tzinfo=UTC), datetime(2029, 12, 30, 12, tzinfo=UTC)


@pytest.mark.parametrize("when", [DAY, START, MIDDAY, "2029-12-30", "2029-12-30T12:00:00Z"])
@pytest.mark.parametrize("end", ["start", "end"])
def test_a_day_selects_the_calls_of_that_day(
    judge: Judge, emulator: Emulator, past: list[str], when: object, end: str
) -> None:
    assert past
    times = {call.sid: _time(call, end) for call in judge.client.calls.list()}
    expected = [sid for sid, time in times.items() if time and time.date() == DAY]
    found = judge.client.calls.list(**{f"{end}_time": when})  # pyright: ignore[reportArgumentType] - the form under test
    assert 5 < len(expected) < emulator.calls.count()
    assert sids(found) == expected


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
def test_a_moment_divides_the_calls_before_it_from_those_after_it(
    judge: Judge, past: list[str], when: object, moment: datetime, end: str
) -> None:
    before = judge.client.calls.list(**{f"{end}_time_before": when}, page_size=10)  # pyright: ignore[reportArgumentType] - the form under test
    after = judge.client.calls.list(**{f"{end}_time_after": when}, page_size=10)  # pyright: ignore[reportArgumentType] - likewise
    assert all((_time(call, end) or moment) <= moment for call in before)
    assert all((_time(call, end) or moment) >= moment for call in after)
    assert sids([*after, *before]) == past
    assert before
    assert after


def test_a_span_of_time_and_a_number_select_together(judge: Judge, past: list[str]) -> None:
    both = {"start_time_after": DAY, "start_time_before": DAY + timedelta(days=1)}
    calls = judge.client.calls.list(**both, to="+15005550100")  # pyright: ignore[reportArgumentType] - dates
    assert 0 < len(calls) < len(past)
    for call in calls:
        assert call.start_time
        assert START <= call.start_time <= START + timedelta(days=1)
        assert call.direction == "inbound"


# Everything else


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library's use of aiohttp
async def test_the_async_client_does_the_same(emulator: Emulator, clock: ManualClock) -> None:
    account = emulator.account
    async with AsyncTwilioHttpClient() as http:
        client = Client(account.sid, account.auth_token, http_client=http)
        client.api.base_url = emulator.base_url
        placed = [await client.calls.create_async(CALLEE, CALLER, twiml=TWIML) for _ in range(3)]
        clock.advance(100)
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
    requests.post(f"{judge.base_url}/emulator/faults", json=fault, timeout=30)
    with refused(status, code):
        judge.call()
    assert judge.client.calls.list() == []


def _time(call: CallInstance, end: str) -> datetime | None:
    return call.start_time if end == "start" else call.end_time
