"""The pytest fixture."""

import subprocess
import sys
from collections.abc import Generator

import httpx
import pytest

from calls_mcp.emulator.testing import Fault, Reaction, RunningEmulator, Script, calls_api
from tests.emulator.callback_receiver import receiving
from tests.plain_http import NO_CERTIFICATES

__all__ = ["calls_api"]


@pytest.fixture
def client(calls_api: RunningEmulator) -> Generator[httpx.Client]:
    credentials = calls_api.account_sid, calls_api.auth_token
    with httpx.Client(
        base_url=calls_api.base_url, auth=credentials, verify=NO_CERTIFICATES
    ) as client:
        yield client


def listed(api: RunningEmulator) -> str:
    return f"/2010-04-01/Accounts/{api.account_sid}/Calls.json"


def form(api: RunningEmulator, **changes: str | list[str]) -> dict[str, str | list[str]]:
    return {
        "To": "+12025550123",
        "From": api.number,
        "Twiml": '<Response><Pause length="20"/></Response>',
        **changes,
    }


def test_sync_code_can_inject_faults_and_reset_the_emulator(
    calls_api: RunningEmulator, client: httpx.Client
) -> None:
    placed = client.post(listed(calls_api), data=form(calls_api))
    calls_api.advance(4)
    assert placed.status_code == 201
    assert [call.status for call in calls_api.calls] == ["in-progress"]
    assert [entry.status for entry in calls_api.requests] == [201]
    calls_api.fail(Fault(kind="rate-limit", requests=2))
    calls_api.fail(Fault(kind="drop", method="POST"))
    answers = [client.get(listed(calls_api)).status_code for _ in range(3)]
    assert answers == [429, 429, 200]
    calls_api.reset()
    assert (calls_api.calls, calls_api.requests) == ((), ())
    assert client.post(listed(calls_api), data=form(calls_api)).status_code == 201


def test_waiting_for_callbacks_includes_retries_and_later_events(
    calls_api: RunningEmulator, client: httpx.Client
) -> None:
    with receiving() as receiver:
        receiver.statuses = [500]
        callback = {"StatusCallback": f"{receiver.url}#rp=5xx"}
        events = {"StatusCallbackEvent": ["initiated", "completed"]}
        client.post(listed(calls_api), data=form(calls_api, **callback, **events))
        calls_api.advance(100)
        calls_api.wait_for_callbacks()
        assert receiver.received.qsize() == 3


ASKS = "<Response><Gather><Say>Press 1 to confirm.</Say></Gather><Say>Goodbye.</Say></Response>"


def test_a_test_scripts_the_callee(calls_api: RunningEmulator, client: httpx.Client) -> None:
    confirms = Script(reactions=(Reaction(hears="press 1", press="1#"),))
    calls_api.script("+12025550123", confirms)
    sids = [
        client.post(listed(calls_api), data=form(calls_api, To=to, Twiml=ASKS)).json()["sid"]
        for to in ("+12025550123", "+12025550124")
    ]
    calls_api.advance(100)
    pressed = [
        [each.text for each in calls_api.transcript(sid) if each.event == "pressed"] for sid in sids
    ]
    assert pressed == [["1", "#"], []]
    assert calls_api.heard(sids[1]) == ["Press 1 to confirm.", "Goodbye."]


def test_an_application_is_asked_for_a_call_from_outside(calls_api: RunningEmulator) -> None:
    with receiving() as receiver:
        calls_api.script(calls_api.number, Script(voice_url=receiver.url))
        sid = calls_api.ring(calls_api.number, "+12025550123")
        asked = receiver.received.get_nowait().form
    assert (asked["CallSid"], asked["Direction"], asked["Called"]) == (
        sid,
        "inbound",
        calls_api.number,
    )


@pytest.mark.anyio
async def test_async_code_can_use_the_fixture(calls_api: RunningEmulator) -> None:
    credentials = calls_api.account_sid, calls_api.auth_token
    async with httpx.AsyncClient(base_url=calls_api.base_url, auth=credentials) as client:
        placed = await client.post(listed(calls_api), data=form(calls_api))
        calls_api.advance(100)
        page = (await client.get(listed(calls_api))).json()
    assert [(call["sid"], call["status"]) for call in page["calls"]] == [
        (placed.json()["sid"], "completed")
    ]


@pytest.mark.process
def test_only_the_fixture_module_imports_pytest() -> None:
    code = "import sys, calls_mcp.emulator; sys.exit('pytest' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=False)  # noqa: S603 - our own program
    assert run.returncode == 0
