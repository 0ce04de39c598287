"""The fixture for other people's tests."""

import subprocess
import sys

import httpx
import pytest

from calls_mcp.emulator.testing import Fault, RunningEmulator, calls_api
from tests.emulator.receiver import receiving

__all__ = ["calls_api"]


def listed(api: RunningEmulator) -> str:
    return f"{api.base_url}/2010-04-01/Accounts/{api.account_sid}/Calls.json"


def form(api: RunningEmulator) -> dict[str, str]:
    return {"To": "+12025550123", "From": api.number, "Twiml": "<Response/>"}


def test_blocking_code_finds_an_emulator(calls_api: RunningEmulator) -> None:
    credentials = calls_api.account_sid, calls_api.auth_token
    placed = httpx.post(listed(calls_api), data=form(calls_api), auth=credentials)
    calls_api.advance(4)
    assert placed.status_code == 201
    assert [call.status for call in calls_api.calls] == ["in-progress"]
    assert [entry.status for entry in calls_api.requests] == [201]


def test_requests_fail_as_they_are_told_to(calls_api: RunningEmulator) -> None:
    calls_api.fail(Fault(kind="rate-limit", requests=2))
    credentials = calls_api.account_sid, calls_api.auth_token
    answers = [httpx.get(listed(calls_api), auth=credentials).status_code for _ in range(3)]
    assert answers == [429, 429, 200]


def test_it_begins_anew(calls_api: RunningEmulator) -> None:
    credentials = calls_api.account_sid, calls_api.auth_token
    httpx.post(listed(calls_api), data=form(calls_api), auth=credentials)
    calls_api.fail(Fault(kind="drop"))
    calls_api.reset()
    assert (calls_api.calls, calls_api.requests) == ((), ())
    assert httpx.get(listed(calls_api), auth=credentials).status_code == 200


def test_callbacks_are_waited_for(calls_api: RunningEmulator) -> None:
    with receiving() as receiver:
        credentials = calls_api.account_sid, calls_api.auth_token
        data = form(calls_api) | {"StatusCallback": receiver.url}
        httpx.post(listed(calls_api), data=data, auth=credentials)
        calls_api.advance(100)
        calls_api.wait_for_callbacks()
        assert receiver.received.qsize() == 1


def test_events_behind_one_that_is_to_be_tried_again_are_not_waited_for(
    calls_api: RunningEmulator,
) -> None:
    with receiving() as receiver:
        receiver.statuses = [500]
        credentials = calls_api.account_sid, calls_api.auth_token
        events = {"StatusCallbackEvent": ["initiated", "completed"]}
        data = form(calls_api) | {"StatusCallback": receiver.url} | events
        httpx.post(listed(calls_api), data=data, auth=credentials)
        calls_api.advance(100)
        calls_api.wait_for_callbacks()
        assert receiver.received.qsize() == 1


@pytest.mark.anyio
async def test_async_code_finds_an_emulator(calls_api: RunningEmulator) -> None:
    credentials = calls_api.account_sid, calls_api.auth_token
    async with httpx.AsyncClient(auth=credentials) as client:
        placed = await client.post(listed(calls_api), data=form(calls_api))
        calls_api.advance(100)
        page = (await client.get(listed(calls_api))).json()
    assert [call["sid"] for call in page["calls"]] == [placed.json()["sid"]]
    assert page["calls"][0]["status"] == "completed"


def test_nothing_but_the_fixtures_module_needs_pytest() -> None:
    code = "import sys, calls_mcp.emulator; sys.exit('pytest' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=False)  # noqa: S603 - our own program
    assert run.returncode == 0
