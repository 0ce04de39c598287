"""Fault injection and the request log."""

from collections.abc import Mapping

import anyio
import httpx
import pytest

from calls_mcp.emulator import Emulator, Fault
from calls_mcp.emulator.api.middleware import MAX_REQUESTS
from tests.emulator.api_client import (
    ACCOUNT,
    FORM,
    LIST,
    ApiClient,
    assert_refused,
    connected,
    item,
)

pytestmark = pytest.mark.anyio

KEY_SID, KEY_SECRET = next(iter(ACCOUNT.api_keys.items()))
FAULTS = "/emulator/faults"


@pytest.fixture
def port() -> int:
    """Listen on a socket, because only a connection can be dropped."""
    return 0


async def add_fault(api: ApiClient, fault: Mapping[str, object]) -> None:
    response = await api.client.post(FAULTS, json=fault)
    assert response.status_code == 201, response.text


@pytest.mark.parametrize(("after", "placed"), [(False, 0), (True, 1)])
async def test_a_connection_is_dropped_before_or_after_the_call_is_placed(
    api: ApiClient, *, after: bool, placed: int
) -> None:
    await add_fault(api, {"kind": "drop", "after": after})
    with pytest.raises(httpx.RemoteProtocolError):
        await api.post({})
    assert api.emulator.calls.count() == placed
    assert [(entry.method, entry.status) for entry in api.emulator.requests] == [("POST", 0)]
    assert await api.call()


async def test_a_delayed_response_causes_a_timeout(api: ApiClient) -> None:
    await add_fault(api, {"kind": "delay", "seconds": 0.2})
    with pytest.raises(httpx.ReadTimeout):
        await api.client.get(LIST, timeout=httpx.Timeout(30, read=0.01))
    await add_fault(api, {"kind": "delay", "seconds": 0})
    assert (await api.client.get(LIST)).status_code == 200
    assert api.emulator.calls.count() == 0


async def test_a_rate_limit_has_retry_after_and_places_no_call(api: ApiClient) -> None:
    await add_fault(api, {"kind": "rate-limit", "retry_after": 7})
    response = await api.post({})
    assert_refused(response, 429, 20429)
    assert response.headers["retry-after"] == "7"
    assert response.headers["twilio-request-id"].startswith("RQ")
    assert api.emulator.calls.count() == 0


@pytest.mark.parametrize(("after", "placed"), [(False, 0), (True, 1)])
@pytest.mark.parametrize(("status", "expected"), [({}, 503), ({"status": 500}, 500)])
async def test_an_error_can_come_before_or_after_the_call_is_placed(
    api: ApiClient, *, after: bool, placed: int, status: dict[str, int], expected: int
) -> None:
    await add_fault(api, {"kind": "error", "after": after, **status})
    response = await api.post({})
    assert_refused(response, expected, 20_000 + expected)
    assert response.headers["twilio-request-id"].startswith("RQ")
    assert api.emulator.calls.count() == placed


async def test_an_html_fault_looks_like_a_proxy_error(api: ApiClient) -> None:
    await add_fault(api, {"kind": "html"})
    response = await api.client.get(LIST)
    assert response.status_code == 502
    assert response.headers["content-type"].startswith("text/html")
    assert response.text.startswith("<html>")


async def test_a_truncated_response_ends_early_after_the_call_is_placed(api: ApiClient) -> None:
    await add_fault(api, {"kind": "truncate"})
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        await api.post({})
    assert api.emulator.calls.count() == 1
    assert api.emulator.requests[0].status == 201


@pytest.mark.parametrize(
    ("faults", "statuses"),
    [
        ([{"kind": "error", "requests": 3}], [503, 503, 503, 200]),
        ([{"kind": "error", "status": 500}, {"kind": "rate-limit"}], [500, 429, 200, 200]),
        ([{"kind": "error", "method": "POST"}, {"kind": "html"}], [502, 200, 200, 200]),
    ],
)
async def test_the_oldest_matching_fault_applies(
    api: ApiClient, faults: list[dict[str, object]], statuses: list[int]
) -> None:
    for fault in faults:
        await add_fault(api, fault)
    assert [(await api.client.get(LIST)).status_code for _ in range(4)] == statuses


async def test_a_probability_affects_the_same_requests_each_time(
    api: ApiClient,
) -> None:
    async def statuses() -> list[int]:
        await add_fault(api, {"kind": "error", "probability": 0.5})
        found = [(await api.client.get(LIST)).status_code for _ in range(40)]
        assert (await api.client.delete(FAULTS)).status_code == 204
        return found

    first, second = await statuses(), await statuses()
    assert first == second
    assert set(first) == {200, 503}


async def test_a_fault_with_a_probability_ends_after_its_requests(api: ApiClient) -> None:
    await add_fault(api, {"kind": "error", "probability": 0.001, "requests": 2})
    for left in (2, 1):
        (fault,) = (await api.client.get(FAULTS)).json()["faults"]
        assert fault == {
            "kind": "error",
            "after": False,
            "seconds": 1,
            "retry_after": 1,
            "requests": 2,
            "probability": 0.001,
            "left": left,
        }
        await api.client.get(LIST)
    assert (await api.client.get(FAULTS)).json() == {"faults": []}


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
async def test_an_invalid_fault_is_refused(api: ApiClient, fault: object) -> None:
    assert_refused(await api.client.post(FAULTS, json=fault), 400, 20001)
    assert (await api.client.get(FAULTS)).json() == {"faults": []}


async def test_the_error_about_an_invalid_fault_says_what_to_send(api: ApiClient) -> None:
    cases = {
        '{"kind": "fire"}': "kind: must be drop, delay, rate-limit, error, html or truncate",
        '{"kind": "drop", "Requests": 1}': "Requests: unknown key",
        '{"kind": "drop", "requests": 0}': "requests: must be 1 or more",
        '{"kind": "drop", "requests": "x"}': "requests: must be a whole number",
        '{"kind": "drop", "status": 503}': "a fault of kind drop does not use status",
        "{}": "kind: is required",
        "[]": "the body must be a JSON object",
        "{": "the body must be JSON",
    }
    for body, message in cases.items():
        assert (await api.client.post(FAULTS, content=body)).json()["message"] == message


@pytest.mark.parametrize("kind", ["drop", "truncate"])
async def test_a_fault_that_closes_a_connection_requires_a_port(kind: str) -> None:
    async with Emulator(account=ACCOUNT, port=None) as emulator, connected(emulator) as api:
        with pytest.raises(ValueError, match="needs an emulator that listens on a port"):
            emulator.faults.add(Fault.model_validate({"kind": kind}))
        refused = await api.client.post(FAULTS, json={"kind": kind})
        assert_refused(refused, 400, 20001)
        assert "needs an emulator that listens on a port" in refused.json()["message"]
        assert (await api.client.get(LIST)).status_code == 200


async def test_a_delayed_response_can_be_cancelled_without_a_port() -> None:
    async with Emulator(account=ACCOUNT, port=None) as emulator, connected(emulator) as api:
        emulator.faults.add(Fault(kind="delay", seconds=60))
        with anyio.move_on_after(0.05) as timeout:
            await api.client.get(LIST)
        assert timeout.cancelled_caught


async def test_faults_do_not_affect_the_control_api(api: ApiClient) -> None:
    await add_fault(api, {"kind": "drop", "requests": 1})
    assert (await api.client.get("/emulator/")).status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        await api.client.post(LIST, data=FORM)


# The request log


async def test_the_log_has_requests_and_response_statuses(api: ApiClient) -> None:
    sid = await api.call()
    await api.client.get(f"{LIST}?StartTime%3E=2024-01-01&Status=answered")
    created, listed = api.emulator.requests
    assert (created.method, created.path, created.query) == ("POST", LIST, "")
    assert created.form == tuple(FORM.items())
    assert created.status == 201
    assert created.headers["content-type"] == "application/x-www-form-urlencoded"
    assert (listed.method, listed.status, listed.form) == ("GET", 400, ())
    assert listed.query == "StartTime%3E=2024-01-01&Status=answered"
    assert sid not in listed.path
    await api.client.get(item("..%2FMessages"))
    assert api.emulator.requests[-1].path.endswith("/Calls/..%2FMessages.json")


async def test_an_api_key_authenticates_and_its_secret_is_not_logged(api: ApiClient) -> None:
    response = await api.client.get(LIST, auth=(KEY_SID, KEY_SECRET))
    (entry,) = api.emulator.requests
    assert (response.status_code, entry.username) == (200, KEY_SID)
    assert KEY_SECRET not in repr(entry)
    assert "authorization" not in entry.headers


async def test_the_log_only_keeps_the_latest_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_REQUESTS == 10_000
    monkeypatch.setattr("calls_mcp.emulator.api.middleware.MAX_REQUESTS", 2)
    async with Emulator(port=None) as emulator, connected(emulator) as api:
        for number in range(3):
            await api.client.get(f"/{number}")
        assert [entry.path for entry in emulator.requests] == ["/1", "/2"]


async def test_a_broken_store_is_logged_as_a_500(
    api: ApiClient, caplog: pytest.LogCaptureFixture
) -> None:
    api.emulator.calls.close()
    response = await api.client.get(LIST)
    assert response.status_code == 500
    assert api.emulator.requests[0].status == 500
    assert "ProgrammingError" in caplog.text
