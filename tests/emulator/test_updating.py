import pytest

from .customer import STRANGER, TALKATIVE, Customer, Fields, assert_refused, item

pytestmark = pytest.mark.anyio

NO_SID = f"CA{0:032}"
OWN = "+15005550100"
QUEUED, RINGING, TALKING, OVER = 0, 1, 4, 3700


@pytest.mark.parametrize("age", [QUEUED, RINGING])
@pytest.mark.parametrize("status", ["canceled", "completed"])
async def test_a_call_that_is_not_answered_yet_ends_with_the_status_asked_for(
    customer: Customer, age: float, status: str
) -> None:
    sid = await customer.call()
    customer.wait(age)
    response = await customer.update(sid, {"Status": status})
    assert (response.status_code, response.json()["status"]) == (200, status)
    customer.wait(OVER)
    call = await customer.fetch(sid)
    assert (call["status"], call["duration"], call["price"]) == (status, None, None)
    assert call["end_time"] == f"Tue, 01 Jan 2030 12:00:0{age} +0000"
    assert (call["start_time"] is None) == (age == QUEUED)


async def test_canceling_leaves_a_talk_alone(customer: Customer) -> None:
    sid = await customer.call(TALKATIVE)
    customer.wait(TALKING)
    before = await customer.fetch(sid)
    customer.wait(1)
    response = await customer.update(sid, {"Status": "canceled"})
    assert (response.status_code, response.json()) == (200, before)


async def test_completing_ends_a_talk(customer: Customer) -> None:
    sid = await customer.call(TALKATIVE)
    customer.wait(TALKING + 90)
    call = (await customer.update(sid, {"Status": "completed"})).json()
    assert (call["status"], call["duration"], call["price"]) == ("completed", "90", None)
    assert call["end_time"] == call["date_updated"] == "Tue, 01 Jan 2030 12:01:34 +0000"
    customer.wait(5)
    assert (await customer.fetch(sid))["price"] == "-0.02600"


@pytest.mark.parametrize(
    ("changes", "url", "twiml"),
    [
        ({"Url": "https://example.com/new.xml"}, "https://example.com/new.xml", None),
        ({"Twiml": "<Response/>"}, None, "<Response/>"),
    ],
)
async def test_a_redirect_replaces_the_instructions(
    customer: Customer, changes: Fields, url: str | None, twiml: str | None
) -> None:
    sid = await customer.call(TALKATIVE)
    customer.wait(TALKING + 2)
    response = await customer.update(sid, changes)
    call = customer.emulator.calls.get(sid)
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
    customer: Customer, to: str, age: float, limit: str, duration: str
) -> None:
    sid = await customer.call(to)
    customer.wait(age)
    response = await customer.update(sid, {"TimeLimit": limit})
    assert response.status_code == 200
    customer.wait(OVER)
    assert (await customer.fetch(sid))["duration"] == duration


async def test_what_cut_a_call_short_can_be_taken_back(customer: Customer) -> None:
    sid = await customer.call(TALKATIVE, {"TimeLimit": "60", "Twiml": "<Response/>"})
    customer.wait(TALKING - 1)
    await customer.update(sid, {"Twiml": "<Response><Pause length='30'/></Response>"})
    customer.wait(20)
    await customer.update(sid, {"Url": "https://example.com/voice"})
    customer.wait(20)
    assert (await customer.fetch(sid))["status"] == "in-progress"
    await customer.update(sid, {"TimeLimit": "300"})
    customer.wait(250)
    assert (await customer.fetch(sid))["status"] == "in-progress"
    customer.wait(20)
    assert (await customer.fetch(sid))["duration"] == "300"


async def test_a_time_limit_means_nothing_to_a_call_that_is_never_answered(
    customer: Customer,
) -> None:
    sid = await customer.call("+15005550202")
    assert (await customer.update(sid, {"TimeLimit": "5"})).status_code == 200
    customer.wait(60)
    assert (await customer.fetch(sid))["status"] == "ringing"


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
async def test_a_call_that_is_over_cannot_be_changed(customer: Customer, changes: Fields) -> None:
    sid = await customer.call()
    customer.wait(OVER)
    before = await customer.fetch(sid)
    assert_refused(await customer.update(sid, changes), 400, 21220)
    assert await customer.fetch(sid) == before


async def test_a_callback_can_be_changed_without_anything_else(customer: Customer) -> None:
    sid = await customer.call()
    changes = {
        "StatusCallback": "https://example.com",
        "StatusCallbackMethod": "GET",
        "FallbackUrl": "https://example.com",
        "FallbackMethod": "GET",
        "Method": "GET",
    }
    response = await customer.update(sid, changes)
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
async def test_an_update_that_is_not_in_order_changes_nothing(
    customer: Customer, changes: Fields, code: int
) -> None:
    sid = await customer.call()
    before = await customer.fetch(sid)
    assert_refused(await customer.update(sid, changes), 400, code)
    assert_refused(await customer.update(NO_SID, {"Status": "completed"}), 404, 20404)
    assert await customer.fetch(sid) == before


@pytest.mark.parametrize(
    ("age", "end"), [(RINGING, ("canceled", None)), (TALKING + 7, ("completed", "7"))]
)
async def test_both_records_of_a_call_within_the_account_end_together(
    customer: Customer, age: float, end: tuple[str, str | None]
) -> None:
    await customer.call(OWN)
    customer.wait(age)
    inbound, _ = await customer.listed()
    await customer.update(inbound, {"Status": end[0]})
    ends = [(call["status"], call["duration"]) for call in (await customer.page())["calls"]]
    assert ends == [end] * 2


async def test_a_record_whose_other_half_is_deleted_can_still_be_changed(
    customer: Customer,
) -> None:
    sid = await customer.call(OWN)
    inbound, _ = await customer.listed()
    customer.emulator.calls.delete(inbound)
    customer.wait(RINGING)
    assert (await customer.update(sid, {"Status": "canceled"})).json()["status"] == "canceled"


async def test_a_deleted_call_is_gone(customer: Customer) -> None:
    sid, other = await customer.call(), await customer.call()
    customer.wait(OVER)
    response = await customer.client.delete(item(sid))
    assert (response.status_code, response.content) == (204, b"")
    assert "content-type" not in response.headers
    assert_refused(await customer.client.get(item(sid)), 404, 20404)
    assert_refused(await customer.client.delete(item(sid)), 404, 20404)
    assert await customer.listed() == [other]


@pytest.mark.parametrize("age", [QUEUED, RINGING, TALKING])
async def test_a_live_call_cannot_be_deleted(customer: Customer, age: float) -> None:
    sid = await customer.call()
    customer.wait(age)
    response = await customer.client.delete(item(sid))
    assert_refused(response, 400, 21220)
    assert "still live" in response.json()["message"]
    assert (await customer.fetch(sid))["sid"] == sid
