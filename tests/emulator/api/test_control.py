"""The control API and its page for people."""

import re

import httpx
import pytest

from calls_mcp.emulator import Emulator
from tests.emulator.api_client import (
    ACCOUNT,
    FORM,
    LIST,
    STRANGER,
    TALKATIVE,
    ApiClient,
    assert_refused,
)

from .test_lists import past

pytestmark = pytest.mark.anyio


# The clock


async def test_the_clock_is_shown_and_advanced(api: ApiClient) -> None:
    sid = await api.call()
    before = (await api.client.get("/emulator/clock", auth=None)).json()
    after = (
        await api.client.request("POST", "/emulator/clock", json={"advance": 4}, auth=None)
    ).json()
    assert before == {"now": "2030-01-01T12:00:00+00:00", "epoch": api.clock()}
    assert after == {"now": "2030-01-01T12:00:04+00:00", "epoch": api.clock() + 4}
    assert (await api.fetch(sid))["status"] == "in-progress"


async def test_an_advanced_clock_keeps_running(api: ApiClient) -> None:
    sid = await api.call()
    await api.client.post("/emulator/clock", json={"advance": 0.5})
    api.advance(0.5)
    assert (await api.fetch(sid))["status"] == "ringing"


@pytest.mark.parametrize(
    "body", ["", "x", "{}", '{"advance": -1}', '{"advance": "soon"}', '{"advance": 1e999}', "5"]
)
async def test_an_invalid_advance_is_refused(api: ApiClient, body: str) -> None:
    response = await api.client.post("/emulator/clock", content=body)
    assert_refused(response, 400, 20001)


# The request log


async def test_the_request_log_has_no_passwords(api: ApiClient) -> None:
    await api.call()
    await api.listed({"Status": "busy"})
    response = await api.client.get("/emulator/requests")
    created, listed = response.json()["requests"]
    assert (created["method"], created["path"], created["status"]) == ("POST", LIST, 201)
    assert created["form"] == [[name, text] for name, text in FORM.items()]
    assert created["username"] == ACCOUNT.sid
    assert (listed["query"], listed["status"]) == ("Status=busy", 200)
    assert ACCOUNT.auth_token not in response.text.replace(ACCOUNT.sid, "")


async def test_control_requests_are_not_logged(api: ApiClient) -> None:
    for path in ("/emulator/", "/emulator/requests", "/emulator/clock", "/emulator/nothing"):
        await api.client.get(path)
    assert api.emulator.requests == ()


# Reset


async def test_a_reset_deletes_everything(api: ApiClient) -> None:
    await api.call()
    await api.client.post("/emulator/faults", json={"kind": "error"})
    assert (await api.client.post("/emulator/reset")).status_code == 204
    assert api.emulator.requests == ()
    assert await api.listed() == []


# The other party


SAYS = '<Response><Gather><Say voice="alice">Press 1\n to confirm.</Say></Gather></Response>'


async def test_the_transcript_is_json_and_text(api: ApiClient) -> None:
    sid = await api.call(STRANGER, {"Url": [], "Twiml": SAYS})
    api.advance(4)
    await api.fetch(sid)
    pressed = await api.client.post(f"/emulator/calls/{sid}/press", json={"keys": "1#"})
    entries = (await api.client.get(f"/emulator/calls/{sid}/transcript")).json()["transcript"]
    text = await api.client.get(f"/emulator/calls/{sid}/transcript.txt")
    assert pressed.status_code == 204
    assert entries[2] == {
        "seconds": 3,
        "event": "said",
        "text": "Press 1 to confirm.",
        "voice": "alice",
    }
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text.splitlines()[:4] == [
        "0:03 answered by a human",
        "0:03 asked for keys (5 s)",
        "0:03 said “Press 1 to confirm.” (alice)",
        "0:03 pressed 1",
    ]


async def test_the_transcript_of_a_call_that_was_not_placed_here_says_so(api: ApiClient) -> None:
    api.emulator.calls.add(past(1, "2029-12-31T00:00+00:00"))
    (sid,) = await api.listed()
    text = (await api.client.get(f"/emulator/calls/{sid}/transcript.txt")).text
    assert text == "Nothing has happened in this call.\n"


@pytest.mark.parametrize(("seconds", "status"), [(0, "queued"), (3, "ringing"), (200, "completed")])
@pytest.mark.parametrize(
    ("does", "body"), [("press", {"keys": "1"}), ("say", {"text": "yes"}), ("hangup", {})]
)
async def test_nobody_reacts_unless_the_call_is_in_progress(
    api: ApiClient, seconds: float, status: str, does: str, body: dict[str, str]
) -> None:
    await api.call()  # the account dials one call a second
    sid = await api.call(STRANGER, {"Url": [], "Twiml": SAYS})
    api.advance(seconds)
    response = await api.client.post(f"/emulator/calls/{sid}/{does}", json=body)
    if (status, does) == ("ringing", "hangup"):
        assert (await api.fetch(sid))["status"] == "busy"
    else:
        assert_refused(response, 400, 21220)
        assert (await api.fetch(sid))["status"] == status


# The page for people


async def test_the_page_shows_the_current_state_of_calls(api: ApiClient) -> None:
    sid = await api.call(TALKATIVE)
    api.advance(10)
    response = await api.client.get("/emulator/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    for text in (sid, TALKATIVE, "in-progress", "1 call.", "12:00:10"):
        assert text in response.text
    api.advance(5000)
    assert "-0.78000" in (await api.client.get("/emulator/")).text


async def test_the_page_links_to_the_transcript_of_each_call(api: ApiClient) -> None:
    sid = await api.call()
    api.advance(4)
    (link,) = re.findall('<a href="([^"]+)"', (await api.client.get("/emulator/")).text)
    live = await api.client.get(link)
    assert live.text.startswith("0:03 answered by a human\n")
    assert "refresh" in live.headers
    api.advance(100)
    await api.fetch(sid)
    assert "refresh" not in (await api.client.get(link)).headers


async def test_the_page_has_no_scripts_and_loads_nothing(api: ApiClient) -> None:
    await api.call()
    response = await api.client.get("/emulator/")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert '<meta http-equiv="refresh"' in response.text
    assert not re.search(r"<script|<link|<img|\ssrc=|url\(|https?://", response.text)


async def test_the_page_escapes_untrusted_text(api: ApiClient) -> None:
    mischief = "<script>alert('1')</script>"
    api.emulator.calls.add(past(1, "2029-12-31T00:00+00:00")._replace(caller_name=mischief))
    await api.client.get(f"{LIST}?{mischief}")
    await api.client.get("/<b>")
    text = (await api.client.get("/emulator/")).text
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;" in text


async def test_the_page_shows_faults_and_callbacks(api: ApiClient) -> None:
    await api.call(STRANGER, {"StatusCallback": "http://192.0.2.1/<status>"})
    api.advance(100)
    await api.listed()
    await api.client.post("/emulator/faults", json={"kind": "rate-limit", "requests": 5})
    text = (await api.client.get("/emulator/")).text
    assert "rate-limit" in text
    assert "POST http://192.0.2.1/&lt;status&gt;" in text


# Access


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example:4010"},
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Host": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_other_sites_in_a_local_browser_are_refused(
    api: ApiClient, headers: dict[str, str]
) -> None:
    for path in ("/emulator/", "/emulator/requests", "/emulator/clock"):
        assert_refused(await api.client.get(path, headers=headers), 403, 20003)
    assert_refused(await api.client.post("/emulator/reset", headers=headers), 403, 20003)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_all_names_of_this_machine_are_accepted(api: ApiClient, host: str) -> None:
    headers = {"Host": f"{host}:4010", "Origin": f"http://{host}:4010"}
    assert (await api.client.get("/emulator/", headers=headers)).status_code == 200


async def test_a_link_on_another_site_can_open_the_page(api: ApiClient) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert (await api.client.get("/emulator/", headers=headers)).status_code == 200
    assert_refused(await api.client.post("/emulator/reset", headers=headers), 403, 20003)


async def test_other_machines_are_refused(emulator: Emulator) -> None:
    for address, status in (("127.0.0.1", 200), ("::1", 200), ("192.0.2.1", 403)):
        transport = httpx.ASGITransport(emulator.app, client=(address, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/emulator/")).status_code == status
