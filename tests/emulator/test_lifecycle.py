import pytest

from .customer import (
    ABRUPT,
    BUSY,
    FAILED,
    FAX,
    MACHINE,
    NO_ANSWER,
    SLOW,
    STRANGER,
    TALKATIVE,
    Customer,
)

pytestmark = pytest.mark.anyio


async def test_an_ordinary_call_is_queued_rings_talks_and_completes(customer: Customer) -> None:
    sid = await customer.call()
    seen: list[tuple[float, str]] = []
    start = customer.clock()
    for pause in (0.9, 0.1, 2.9, 0.1, 19.9, 0.1):
        customer.wait(pause)
        seen.append((round(customer.clock() - start, 1), (await customer.fetch(sid))["status"]))
    assert seen == [
        (0.9, "queued"),
        (1.0, "ringing"),
        (3.9, "ringing"),
        (4.0, "in-progress"),
        (23.9, "in-progress"),
        (24.0, "completed"),
    ]


async def test_a_completed_call_tells_when_it_was_dialled_and_how_long_it_lasted(
    customer: Customer,
) -> None:
    sid = await customer.call()
    customer.wait(1)
    ringing = await customer.fetch(sid)
    assert ringing["start_time"] == ringing["date_updated"] == "Tue, 01 Jan 2030 12:00:01 +0000"
    customer.wait(3)
    talking = await customer.fetch(sid)
    assert talking["date_updated"] == "Tue, 01 Jan 2030 12:00:04 +0000"
    assert (talking["end_time"], talking["duration"]) == (None, None)
    customer.wait(100)
    call = await customer.fetch(sid)
    assert call["start_time"] == "Tue, 01 Jan 2030 12:00:01 +0000"
    assert call["end_time"] == "Tue, 01 Jan 2030 12:00:24 +0000"
    assert call["duration"] == "20"


async def test_the_price_comes_some_seconds_after_the_end(customer: Customer) -> None:
    sid = await customer.call()
    customer.wait(28.9)
    ended = await customer.fetch(sid)
    customer.wait(0.1)
    priced = await customer.fetch(sid)
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
async def test_every_minute_begun_is_charged(
    customer: Customer, to: str, limit: int, seconds: int, price: str
) -> None:
    sid = await customer.call(to, {"TimeLimit": str(limit)})
    customer.wait(5000)
    call = await customer.fetch(sid)
    assert (call["duration"], call["price"]) == (str(seconds), price)


@pytest.mark.parametrize(
    ("to", "seconds", "status"),
    [(BUSY, 3, "busy"), (FAILED, 1, "failed"), (NO_ANSWER, 61, "no-answer")],
)
async def test_a_call_that_is_not_answered_ends_without_duration_and_price(
    customer: Customer, to: str, seconds: float, status: str
) -> None:
    sid = await customer.call(to)
    customer.wait(seconds - 0.1)
    assert (await customer.fetch(sid))["status"] in {"queued", "ringing"}
    customer.wait(0.1)
    call = await customer.fetch(sid)
    assert call["status"] == status
    assert call["end_time"] == f"Tue, 01 Jan 2030 12:0{seconds // 60}:{seconds % 60:02} +0000"
    customer.wait(3600)
    call = await customer.fetch(sid)
    assert (call["status"], call["duration"], call["price"]) == (status, None, None)


@pytest.mark.parametrize(("seconds", "status"), [(29, "no-answer"), (30, "in-progress")])
async def test_a_slow_answer_comes_within_the_timeout_or_not_at_all(
    customer: Customer, seconds: int, status: str
) -> None:
    sid = await customer.call(SLOW, {"Timeout": str(seconds)})
    customer.wait(31)
    assert (await customer.fetch(sid))["status"] == status


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
async def test_detection_tells_at_the_answer_who_answered(
    customer: Customer, to: str, detection: str, found: str
) -> None:
    sid = await customer.call(to, {"MachineDetection": detection})
    customer.wait(3)
    assert (await customer.fetch(sid))["answered_by"] is None
    customer.wait(1)
    assert (await customer.fetch(sid))["answered_by"] == found


@pytest.mark.parametrize("changes", [{}, {"MachineDetection": "Enable", "SendDigits": "1"}])
async def test_without_detection_nobody_knows_who_answered(
    customer: Customer, changes: dict[str, str]
) -> None:
    sid = await customer.call(MACHINE, changes)
    customer.wait(4)
    call = await customer.fetch(sid)
    assert (call["status"], call["answered_by"]) == ("in-progress", None)
