"""The emulator's own endpoints, and the page for people."""

import re

import httpx
import pytest

from calls_mcp.emulator import Emulator

from .customer import ACCOUNT, FORM, LIST, STRANGER, TALKATIVE, Customer, assert_refused
from .test_listing import past

pytestmark = pytest.mark.anyio


# The clock


async def test_time_is_told_and_put_forward(customer: Customer) -> None:
    sid = await customer.call()
    async with httpx.AsyncClient(
        base_url=customer.emulator.base_url
    ) as visitor:  # without credentials
        before = (await visitor.get("/emulator/clock")).json()
        after = (await visitor.post("/emulator/clock", json={"advance": 4})).json()
    assert before == {"now": "2030-01-01T12:00:00+00:00", "epoch": customer.clock()}
    assert after == {"now": "2030-01-01T12:00:04+00:00", "epoch": customer.clock() + 4}
    assert (await customer.fetch(sid))["status"] == "in-progress"


async def test_a_clock_that_was_put_forward_goes_on_with_its_source(customer: Customer) -> None:
    sid = await customer.call()
    await customer.client.post("/emulator/clock", json={"advance": 0.5})
    customer.wait(0.5)
    assert (await customer.fetch(sid))["status"] == "ringing"


@pytest.mark.parametrize(
    "body", ["", "x", "{}", '{"advance": -1}', '{"advance": "soon"}', '{"advance": 1e999}', "5"]
)
async def test_time_does_not_go_back_nor_nowhere(customer: Customer, body: str) -> None:
    response = await customer.client.post("/emulator/clock", content=body)
    assert_refused(response, 400, 20001)


# What came in


async def test_what_came_in_is_told_without_the_password(customer: Customer) -> None:
    await customer.call()
    await customer.listed({"Status": "busy"})
    response = await customer.client.get("/emulator/requests")
    created, listed = response.json()["requests"]
    assert (created["method"], created["path"], created["status"]) == ("POST", LIST, 201)
    assert created["form"] == [[name, text] for name, text in FORM.items()]
    assert created["username"] == ACCOUNT.sid
    assert (listed["query"], listed["status"]) == ("Status=busy", 200)
    assert ACCOUNT.auth_token not in response.text.replace(ACCOUNT.sid, "")


async def test_looking_is_not_recorded(customer: Customer) -> None:
    for path in ("/emulator/", "/emulator/requests", "/emulator/clock", "/emulator/nothing"):
        await customer.client.get(path)
    assert customer.emulator.requests == ()


# A new beginning


async def test_a_reset_forgets_everything(customer: Customer) -> None:
    await customer.call()
    await customer.client.post("/emulator/faults", json={"kind": "drop"})
    assert (await customer.client.post("/emulator/reset")).status_code == 204
    assert customer.emulator.requests == ()
    assert await customer.listed() == []


# For people


async def test_the_page_shows_the_calls_as_they_are_now(customer: Customer) -> None:
    sid = await customer.call(TALKATIVE)
    customer.wait(10)
    response = await customer.client.get("/emulator/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    for text in (sid, TALKATIVE, "in-progress", "1 calls", "12:00:10"):
        assert text in response.text
    customer.wait(5000)
    assert "-0.78000" in (await customer.client.get("/emulator/")).text


async def test_the_page_is_whole_without_scripts_and_loads_nothing(customer: Customer) -> None:
    await customer.call()
    response = await customer.client.get("/emulator/")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert '<meta http-equiv="refresh"' in response.text
    assert not re.search(r"<script|<link|<img|\ssrc=|url\(|https?://", response.text)


async def test_the_page_shows_what_strangers_wrote_and_does_not_obey_it(customer: Customer) -> None:
    mischief = "<script>alert('1')</script>"
    customer.emulator.calls.add(past(1, "2029-12-31T00:00+00:00")._replace(caller_name=mischief))
    await customer.client.get(f"{LIST}?{mischief}")
    await customer.client.get("/<b>")
    text = (await customer.client.get("/emulator/")).text
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;" in text


async def test_the_page_shows_faults_to_come_and_callbacks(customer: Customer) -> None:
    await customer.call(STRANGER, {"StatusCallback": "http://192.0.2.1/<status>"})
    customer.wait(100)
    await customer.listed()
    await customer.client.post("/emulator/faults", json={"kind": "truncate", "requests": 5})
    text = (await customer.client.get("/emulator/")).text
    assert "truncate" in text
    assert "POST http://192.0.2.1/&lt;status&gt;" in text


# Only for this machine


@pytest.mark.parametrize("path", ["/emulator/", "/emulator/requests", "/emulator/clock"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example:4010"},
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Host": ""},
    ],
)
async def test_another_site_in_a_browser_here_is_kept_out_and_resets_nothing(
    customer: Customer, path: str, headers: dict[str, str]
) -> None:
    assert_refused(await customer.client.get(path, headers=headers), 403, 20003)
    assert_refused(await customer.client.post("/emulator/reset", headers=headers), 403, 20003)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_this_machine_has_several_names(customer: Customer, host: str) -> None:
    headers = {"Host": f"{host}:4010", "Origin": f"http://{host}:4010"}
    assert (await customer.client.get("/emulator/", headers=headers)).status_code == 200


async def test_other_machines_are_kept_out(emulator: Emulator) -> None:
    for address, status in (("127.0.0.1", 200), ("::1", 200), ("192.0.2.1", 403)):
        transport = httpx.ASGITransport(emulator.app, client=(address, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/emulator/")).status_code == status
