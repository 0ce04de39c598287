"""The lifecycle of a call: the effects of time and of updates."""

from pathlib import Path

import pytest

from calls_mcp.emulator import Account, Emulator, ManualClock

from .api_client import (
    ABRUPT,
    BUSY,
    FAILED,
    FAX,
    MACHINE,
    NO_ANSWER,
    SLOW,
    STRANGER,
    TALKATIVE,
    ApiClient,
    Fields,
    assert_refused,
    connected,
    item,
)

pytestmark = pytest.mark.anyio

NO_SID = f"CA{0:032}"
OWN = "+15005550100"
QUEUED, RINGING, TALKING, OVER = 0, 1, 4, 3700


async def test_a_call_goes_from_queued_to_completed(api: ApiClient) -> None:
    sid = await api.call()
    seen: list[tuple[float, str]] = []
    start = api.clock()
    for pause in (0.9, 0.1, 2.9, 0.1, 19.9, 0.1):
        api.advance(pause)
        seen.append((round(api.clock() - start, 1), (await api.fetch(sid))["status"]))
    assert seen == [
        (0.9, "queued"),
        (1.0, "ringing"),
        (3.9, "ringing"),
        (4.0, "in-progress"),
        (23.9, "in-progress"),
        (24.0, "completed"),
    ]


async def test_a_completed_call_shows_when_it_was_dialed_and_its_duration(
    api: ApiClient,
) -> None:
    sid = await api.call()
    api.advance(1)
    ringing = await api.fetch(sid)
    assert ringing["start_time"] == ringing["date_updated"] == "Tue, 01 Jan 2030 12:00:01 +0000"
    api.advance(3)
    talking = await api.fetch(sid)
    assert talking["date_updated"] == "Tue, 01 Jan 2030 12:00:04 +0000"
    assert (talking["end_time"], talking["duration"]) == (None, None)
    api.advance(100)
    call = await api.fetch(sid)
    assert call["start_time"] == "Tue, 01 Jan 2030 12:00:01 +0000"
    assert call["end_time"] == "Tue, 01 Jan 2030 12:00:24 +0000"
    assert call["duration"] == "20"


async def test_the_price_appears_some_seconds_after_the_end(api: ApiClient) -> None:
    sid = await api.call()
    api.advance(28.9)
    ended = await api.fetch(sid)
    api.advance(0.1)
    priced = await api.fetch(sid)
    assert (ended["status"], ended["price"]) == ("completed", None)
    assert (priced["price"], priced["price_unit"]) == ("-0.01300", "USD")
    assert priced["date_updated"] == "Tue, 01 Jan 2030 12:00:29 +0000"


@pytest.mark.parametrize(
    ("to", "limit", "seconds", "price"),
    [
        (TALKATIVE, 60, 60, "-0.01300"),
        (TALKATIVE, 61, 61, "-0.02600"),
        (TALKATIVE, 9999, 3600, "-0.78000"),
        (ABRUPT, 60, 0, "-0.01300"),
    ],
)
async def test_every_started_minute_is_charged(
    api: ApiClient, to: str, limit: int, seconds: int, price: str
) -> None:
    sid = await api.call(to, {"TimeLimit": str(limit)})
    api.advance(5000)
    call = await api.fetch(sid)
    assert (call["duration"], call["price"]) == (str(seconds), price)


@pytest.mark.parametrize(
    ("to", "seconds", "status"),
    [(BUSY, 3, "busy"), (FAILED, 1, "failed"), (NO_ANSWER, 61, "no-answer")],
)
async def test_an_unanswered_call_has_no_end_no_duration_and_no_price(
    api: ApiClient, to: str, seconds: float, status: str
) -> None:
    sid = await api.call(to)
    api.advance(seconds - 0.1)
    assert (await api.fetch(sid))["status"] in {"queued", "ringing"}
    api.advance(0.1)
    call = await api.fetch(sid)
    assert call["status"] == status
    assert call["date_updated"] == f"Tue, 01 Jan 2030 12:0{seconds // 60}:{seconds % 60:02} +0000"
    api.advance(3600)
    call = await api.fetch(sid)
    assert call["status"] == status
    assert (call["end_time"], call["duration"], call["price"]) == (None, None, None)
    assert await api.listed({"EndTime>": "2000-01-01"}) == []


@pytest.mark.parametrize(("seconds", "status"), [(29, "no-answer"), (30, "in-progress")])
async def test_an_answer_after_the_timeout_never_happens(
    api: ApiClient, seconds: int, status: str
) -> None:
    sid = await api.call(SLOW, {"Timeout": str(seconds)})
    api.advance(31)
    assert (await api.fetch(sid))["status"] == status


@pytest.mark.parametrize(
    ("to", "detection", "found"),
    [
        (STRANGER, "Enable", "human"),
        (STRANGER, "DetectMessageEnd", "human"),
        (MACHINE, "Enable", "machine_start"),
        (MACHINE, "DetectMessageEnd", "machine_end_beep"),
        (FAX, "DetectMessageEnd", "fax"),
    ],
)
async def test_detection_reports_its_result_at_the_answer(
    api: ApiClient, to: str, detection: str, found: str
) -> None:
    sid = await api.call(to, {"MachineDetection": detection})
    api.advance(3)
    assert (await api.fetch(sid))["answered_by"] is None
    api.advance(1)
    assert (await api.fetch(sid))["answered_by"] == found


@pytest.mark.parametrize("changes", [{}, {"MachineDetection": "Enable", "SendDigits": "1"}])
async def test_without_detection_answered_by_is_null(
    api: ApiClient, changes: dict[str, str]
) -> None:
    sid = await api.call(MACHINE, changes)
    api.advance(4)
    call = await api.fetch(sid)
    assert (call["status"], call["answered_by"]) == ("in-progress", None)


# The queue


@pytest.mark.parametrize(
    ("calls_per_second", "waits"),
    [(1, ["1000", "2000", "3000"]), (4, ["250", "500", "750"]), (0.1, ["10000", "20000", "30000"])],
)
async def test_calls_are_dialed_at_the_configured_rate(
    account: Account, clock: ManualClock, calls_per_second: float, waits: list[str]
) -> None:
    emulator = Emulator(account=account, clock=clock, port=None, calls_per_second=calls_per_second)
    async with emulator, connected(emulator) as api:
        calls = [await api.fetch(await api.call()) for _ in waits]
        assert [call["queue_time"] for call in calls] == waits
        clock.advance(1 / calls_per_second)
        statuses = [(await api.fetch(call["sid"]))["status"] for call in calls]
        assert statuses == ["ringing", "queued", "queued"]
        clock.advance(1000)
        assert (await api.fetch(await api.call()))["queue_time"] == waits[0]


async def test_inbound_calls_are_not_queued(api: ApiClient) -> None:
    await api.call(OWN)
    await api.call()
    waits = [(call["direction"], call["queue_time"]) for call in (await api.page())["calls"]]
    assert waits == [("outbound-api", "2000"), ("inbound", "0"), ("outbound-api", "1000")]


async def test_a_canceled_call_frees_its_place_in_the_queue(api: ApiClient) -> None:
    for sid in [await api.call() for _ in range(5)]:
        await api.update(sid, {"Status": "canceled"})
    assert (await api.fetch(await api.call()))["queue_time"] == "1000"


async def test_a_file_whose_clock_was_ahead_delays_no_call(
    account: Account, tmp_path: Path
) -> None:
    database = str(tmp_path / "calls.db")
    for now in (2_000, 1_000):
        emulator = Emulator(account=account, clock=ManualClock(now), port=None, database=database)
        async with emulator, connected(emulator) as api:
            for sid in await api.listed():
                await api.update(sid, {"Status": "canceled"})
            assert (await api.fetch(await api.call()))["queue_time"] == "1000"


# Updates


@pytest.mark.parametrize("age", [QUEUED, RINGING])
@pytest.mark.parametrize("status", ["canceled", "completed"])
async def test_an_unanswered_call_ends_with_the_requested_status(
    api: ApiClient, age: float, status: str
) -> None:
    sid = await api.call()
    api.advance(age)
    response = await api.update(sid, {"Status": status})
    assert (response.status_code, response.json()["status"]) == (200, status)
    api.advance(OVER)
    call = await api.fetch(sid)
    assert (call["status"], call["duration"], call["price"]) == (status, None, None)
    assert call["date_updated"] == f"Tue, 01 Jan 2030 12:00:0{age} +0000"
    assert (call["end_time"] is None) == (status == "canceled")
    assert (call["start_time"] is None) == (age == QUEUED)


async def test_canceling_does_not_end_an_answered_call(api: ApiClient) -> None:
    sid = await api.call(TALKATIVE)
    api.advance(TALKING)
    before = await api.fetch(sid)
    api.advance(1)
    response = await api.update(sid, {"Status": "canceled"})
    assert (response.status_code, response.json()) == (200, before)


async def test_completing_ends_an_answered_call(api: ApiClient) -> None:
    sid = await api.call(TALKATIVE)
    api.advance(TALKING + 90)
    call = (await api.update(sid, {"Status": "completed"})).json()
    assert (call["status"], call["duration"], call["price"]) == ("completed", "90", None)
    assert call["end_time"] == call["date_updated"] == "Tue, 01 Jan 2030 12:01:34 +0000"
    api.advance(5)
    assert (await api.fetch(sid))["price"] == "-0.02600"


@pytest.mark.parametrize(
    ("changes", "url", "twiml"),
    [
        ({"Url": "https://example.com/new.xml"}, "https://example.com/new.xml", None),
        ({"Twiml": "<Response/>"}, None, "<Response/>"),
    ],
)
async def test_a_redirect_replaces_the_instructions(
    api: ApiClient, changes: Fields, url: str | None, twiml: str | None
) -> None:
    sid = await api.call(TALKATIVE)
    api.advance(TALKING + 2)
    response = await api.update(sid, changes)
    call = api.emulator.calls.get(sid)
    assert response.status_code == 200
    assert response.json()["status"] == "in-progress"
    assert response.json()["date_updated"] == "Tue, 01 Jan 2030 12:00:06 +0000"
    assert call is not None
    assert (call.url, call.twiml) == (url, twiml)


@pytest.mark.parametrize(
    ("to", "age", "limit", "duration"),
    [
        (TALKATIVE, QUEUED, "30", "30"),
        (TALKATIVE, RINGING, "30", "30"),
        (TALKATIVE, TALKING, "30", "30"),
        (TALKATIVE, TALKING + 50, "30", "50"),
        (STRANGER, QUEUED, "500", "20"),
    ],
)
async def test_a_time_limit_moves_the_end_earlier_but_not_into_the_past(
    api: ApiClient, to: str, age: float, limit: str, duration: str
) -> None:
    sid = await api.call(to)
    api.advance(age)
    response = await api.update(sid, {"TimeLimit": limit})
    assert response.status_code == 200
    api.advance(OVER)
    assert (await api.fetch(sid))["duration"] == duration


@pytest.mark.parametrize(
    ("to", "age", "duration"),
    [(TALKATIVE, 10, "8"), (STRANGER, 0, "2"), (STRANGER, 22, "20"), (BUSY, 0, None)],
)
async def test_redirected_instructions_can_hang_up(
    api: ApiClient, to: str, age: float, duration: str | None
) -> None:
    sid = await api.call(to)
    api.advance(age)
    pause = '<Response><Pause length="2"/><Hangup/></Response>'
    assert (await api.update(sid, {"Twiml": pause})).json()["status"] != "completed"
    api.advance(100)
    assert (await api.fetch(sid))["duration"] == duration


async def test_a_time_limit_can_be_raised_again(api: ApiClient) -> None:
    sid = await api.call(TALKATIVE, {"TimeLimit": "60", "Twiml": "<Response/>"})
    api.advance(TALKING - 1)
    await api.update(sid, {"Twiml": "<Response><Pause length='30'/></Response>"})
    api.advance(20)
    await api.update(sid, {"Url": "https://example.com/voice"})
    api.advance(20)
    assert (await api.fetch(sid))["status"] == "in-progress"
    await api.update(sid, {"TimeLimit": "300"})
    api.advance(250)
    assert (await api.fetch(sid))["status"] == "in-progress"
    api.advance(20)
    assert (await api.fetch(sid))["duration"] == "300"


async def test_a_time_limit_does_not_change_an_unanswered_call(
    api: ApiClient,
) -> None:
    sid = await api.call("+15005550202")
    assert (await api.update(sid, {"TimeLimit": "5"})).status_code == 200
    api.advance(60)
    assert (await api.fetch(sid))["status"] == "ringing"


@pytest.mark.parametrize(
    "changes",
    [
        {"Status": "completed"},
        {"Status": "canceled"},
        {"Url": "https://example.com"},
        {"Twiml": "<Response/>"},
        {"TimeLimit": "5"},
        {"StatusCallback": "https://example.com"},
    ],
)
async def test_an_ended_call_cannot_be_changed(api: ApiClient, changes: Fields) -> None:
    sid = await api.call()
    api.advance(OVER)
    before = await api.fetch(sid)
    assert_refused(await api.update(sid, changes), 400, 21220)
    assert await api.fetch(sid) == before


async def test_an_update_can_change_only_the_callback(api: ApiClient) -> None:
    sid = await api.call()
    changes = {
        "StatusCallback": "https://example.com",
        "StatusCallbackMethod": "GET",
        "FallbackUrl": "https://example.com",
        "FallbackMethod": "GET",
        "Method": "GET",
    }
    response = await api.update(sid, changes)
    assert (response.status_code, response.json()["status"]) == (200, "queued")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"Status": "busy"}, 20001),
        ({"Status": "in-progress"}, 20001),
        ({"Url": "nowhere"}, 21205),
        ({"TimeLimit": "0"}, 20001),
        ({"To": STRANGER}, 20001),
        ({"StatusCallbackEvent": "ringing"}, 20001),
        ({"Url": "https://example.com", "Twiml": "<Response/>"}, 20001),
        ({}, 20001),
    ],
)
async def test_an_invalid_update_changes_nothing(
    api: ApiClient, changes: Fields, code: int
) -> None:
    sid = await api.call()
    before = await api.fetch(sid)
    assert_refused(await api.update(sid, changes), 400, code)
    assert_refused(await api.update(NO_SID, {"Status": "completed"}), 404, 20404)
    assert await api.fetch(sid) == before


@pytest.mark.parametrize(
    ("age", "end"), [(RINGING, ("canceled", None)), (TALKING + 7, ("completed", "7"))]
)
async def test_both_records_of_a_call_within_the_account_end_together(
    api: ApiClient, age: float, end: tuple[str, str | None]
) -> None:
    await api.call(OWN)
    api.advance(age)
    inbound, _ = await api.listed()
    await api.update(inbound, {"Status": end[0]})
    ends = [(call["status"], call["duration"]) for call in (await api.page())["calls"]]
    assert ends == [end] * 2


async def test_a_call_whose_other_record_was_deleted_can_be_changed(
    api: ApiClient,
) -> None:
    sid = await api.call(OWN)
    inbound, _ = await api.listed()
    api.emulator.calls.delete(inbound)
    api.advance(RINGING)
    assert (await api.update(sid, {"Status": "canceled"})).json()["status"] == "canceled"


async def test_a_deleted_call_is_not_found(api: ApiClient) -> None:
    sid, other = await api.call(), await api.call()
    api.advance(OVER)
    response = await api.client.delete(item(sid))
    assert (response.status_code, response.content) == (204, b"")
    assert "content-type" not in response.headers
    assert_refused(await api.client.get(item(sid)), 404, 20404)
    assert_refused(await api.client.delete(item(sid)), 404, 20404)
    assert await api.listed() == [other]


@pytest.mark.parametrize("age", [QUEUED, RINGING, TALKING])
async def test_a_live_call_cannot_be_deleted(api: ApiClient, age: float) -> None:
    sid = await api.call()
    api.advance(age)
    response = await api.client.delete(item(sid))
    assert_refused(response, 400, 21220)
    assert "still live" in response.json()["message"]
    assert (await api.fetch(sid))["sid"] == sid
