"""Failures on demand."""

from collections.abc import Mapping

import httpx
import pytest

from .customer import FORM, LIST, Customer, assert_refused

pytestmark = pytest.mark.anyio

FAULTS = "/emulator/faults"


async def arm(customer: Customer, fault: Mapping[str, object]) -> None:
    response = await customer.client.post(FAULTS, json=fault)
    assert response.status_code == 201, response.text


@pytest.mark.parametrize(("after", "placed"), [(False, 0), (True, 1)])
async def test_a_connection_is_dropped_before_or_after_the_call_is_placed(
    customer: Customer, *, after: bool, placed: int
) -> None:
    await arm(customer, {"kind": "drop", "after": after})
    with pytest.raises(httpx.RemoteProtocolError):
        await customer.post({})
    assert customer.emulator.calls.count() == placed
    assert [(entry.method, entry.status) for entry in customer.emulator.requests] == [("POST", 0)]
    assert await customer.call()


async def test_a_late_answer_is_too_late_for_who_does_not_wait(customer: Customer) -> None:
    await arm(customer, {"kind": "delay", "seconds": 0.2})
    with pytest.raises(httpx.ReadTimeout):
        await customer.client.get(LIST, timeout=httpx.Timeout(30, read=0.01))
    await arm(customer, {"kind": "delay", "seconds": 0})
    assert (await customer.client.get(LIST)).status_code == 200
    assert customer.emulator.calls.count() == 0


async def test_a_rate_limit_says_when_to_come_again_and_places_no_call(customer: Customer) -> None:
    await arm(customer, {"kind": "rate-limit", "retry_after": 7})
    response = await customer.post({})
    assert_refused(response, 429, 20429)
    assert response.headers["retry-after"] == "7"
    assert customer.emulator.calls.count() == 0


@pytest.mark.parametrize(("after", "placed"), [(False, 0), (True, 1)])
@pytest.mark.parametrize(("status", "expected"), [({}, 503), ({"status": 500}, 500)])
async def test_an_error_leaves_open_whether_the_call_was_placed(
    customer: Customer, *, after: bool, placed: int, status: dict[str, int], expected: int
) -> None:
    await arm(customer, {"kind": "error", "after": after, **status})
    assert_refused(await customer.post({}), expected, 20_000 + expected)
    assert customer.emulator.calls.count() == placed


async def test_a_proxy_answers_with_html(customer: Customer) -> None:
    await arm(customer, {"kind": "html"})
    response = await customer.client.get(LIST)
    assert response.status_code == 502
    assert response.headers["content-type"].startswith("text/html")
    assert response.text.startswith("<html>")


async def test_a_truncated_answer_breaks_off_after_the_call_is_placed(customer: Customer) -> None:
    await arm(customer, {"kind": "truncate"})
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        await customer.post({})
    assert customer.emulator.calls.count() == 1
    assert customer.emulator.requests[0].status == 201


@pytest.mark.parametrize(
    ("faults", "statuses"),
    [
        ([{"kind": "error", "requests": 3}], [503, 503, 503, 200]),
        ([{"kind": "error", "status": 500}, {"kind": "rate-limit"}], [500, 429, 200, 200]),
        ([{"kind": "error", "method": "POST"}, {"kind": "html"}], [502, 200, 200, 200]),
    ],
)
async def test_the_oldest_fault_strikes_the_requests_it_says(
    customer: Customer, faults: list[dict[str, object]], statuses: list[int]
) -> None:
    for fault in faults:
        await arm(customer, fault)
    assert [(await customer.client.get(LIST)).status_code for _ in range(4)] == statuses


async def test_a_probability_strikes_some_requests_and_the_same_ones_again(
    customer: Customer,
) -> None:
    async def statuses() -> list[int]:
        await arm(customer, {"kind": "error", "probability": 0.5})
        found = [(await customer.client.get(LIST)).status_code for _ in range(40)]
        assert (await customer.client.delete(FAULTS)).status_code == 204
        return found

    first, second = await statuses(), await statuses()
    assert first == second
    assert set(first) == {200, 503}


async def test_a_likely_fault_ends_after_the_requests_it_says(customer: Customer) -> None:
    await arm(customer, {"kind": "error", "probability": 0.001, "requests": 2})
    for left in (2, 1):
        (fault,) = (await customer.client.get(FAULTS)).json()["faults"]
        assert fault == {
            "kind": "error",
            "after": False,
            "seconds": 1,
            "retry_after": 1,
            "requests": 2,
            "probability": 0.001,
            "left": left,
        }
        await customer.client.get(LIST)
    assert (await customer.client.get(FAULTS)).json() == {"faults": []}


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"kind": "fire"},
        {"kind": "drop", "Requests": 1},
        {"kind": "drop", "requests": 0},
        {"kind": "drop", "probability": 0},
        {"kind": "drop", "probability": 1.5},
        {"kind": "error", "status": 200},
        {"kind": "delay", "seconds": -1},
        {"kind": "drop", "method": "PUT"},
        {"kind": "rate-limit", "after": True},
        {"kind": "drop", "status": 503},
        {"kind": "truncate", "seconds": 1},
        [],
    ],
)
async def test_a_fault_that_is_not_in_order_is_refused(customer: Customer, fault: object) -> None:
    assert_refused(await customer.client.post(FAULTS, json=fault), 400, 20001)
    assert (await customer.client.get(FAULTS)).json() == {"faults": []}


async def test_faults_spare_the_emulators_own_endpoints(customer: Customer) -> None:
    await arm(customer, {"kind": "drop", "requests": 1})
    assert (await customer.client.get("/emulator/")).status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        await customer.client.post(LIST, data=FORM)
