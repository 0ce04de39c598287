import base64

import httpx
import pytest

from calls_mcp.emulator import Account, Emulator
from calls_mcp.emulator.middleware import MAX_REQUESTS

from .customer import ACCOUNT, FORM, LIST, Customer, assert_refused, item, using

pytestmark = pytest.mark.anyio

KEY_SID, KEY_SECRET = next(iter(ACCOUNT.api_keys.items()))
NO_SID = f"CA{0:032}"


def basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !!!",
        "Bearer " + base64.b64encode(f"{ACCOUNT.sid}:{ACCOUNT.auth_token}".encode()).decode(),
        basic(b"\xff:\xff"),
        basic(f"{ACCOUNT.sid}:{KEY_SECRET}".encode()),
        basic(f"{ACCOUNT.sid}:é".encode()),
        basic(f"{ACCOUNT.sid}:".encode()),
        basic(f"{KEY_SID}:{ACCOUNT.auth_token}".encode()),
        basic(f"AC{9:032}:{ACCOUNT.auth_token}".encode()),
        basic(b":"),
    ],
)
async def test_anything_else_is_401_with_a_challenge(emulator: Emulator, header: str) -> None:
    async with httpx.AsyncClient(base_url=emulator.base_url) as client:
        response = await client.get(LIST, headers={"Authorization": header} if header else {})
    assert_refused(response, 401, 20003)
    assert response.headers["www-authenticate"].startswith("Basic ")


async def test_every_endpoint_wants_credentials_and_is_in_the_journal(customer: Customer) -> None:
    item_path = item(await customer.call())
    endpoints = [("POST", LIST), ("GET", LIST)]
    endpoints += [(method, item_path) for method in ("GET", "POST", "DELETE")]
    async with httpx.AsyncClient(base_url=customer.emulator.base_url) as client:
        for method, path in endpoints:
            assert_refused(await client.request(method, path, data=FORM), 401, 20003)
    assert [call.status for call in customer.emulator.calls.all()] == ["queued"]
    entries = customer.emulator.requests[1:]
    assert [(entry.method, entry.path, entry.status) for entry in entries] == [
        (method, path, 401) for method, path in endpoints
    ]
    assert all((entry.form, entry.username) == (tuple(FORM.items()), "") for entry in entries)


async def test_another_accounts_path_is_not_found(customer: Customer) -> None:
    path = LIST.replace(ACCOUNT.sid, f"AC{9:032}")
    assert_refused(await customer.client.get(path), 404, 20404)


@pytest.mark.parametrize("sid", [NO_SID, "CA1", f"SM{0:032}"])
async def test_an_unknown_call_is_not_found(customer: Customer, sid: str) -> None:
    response = await customer.client.get(item(sid))
    assert_refused(response, 404, 20404)
    assert item(sid) in response.json()["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/2010-04-01/Accounts.json",
        LIST + "/",
        LIST.removesuffix(".json"),
        item(f"..%2FMessages%2FSM{0:032}"),
        f"/2010-04-01/Accounts/{ACCOUNT.sid}/Messages.json",
    ],
)
async def test_an_unknown_path_is_not_found(customer: Customer, path: str) -> None:
    assert_refused(await customer.client.get(path), 404, 20404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", LIST, {"GET", "HEAD", "POST"}),
        ("DELETE", LIST, {"GET", "HEAD", "POST"}),
        ("PATCH", item(NO_SID), {"DELETE", "GET", "HEAD", "POST"}),
    ],
)
async def test_a_wrong_method_is_405(
    customer: Customer, method: str, path: str, allowed: set[str]
) -> None:
    response = await customer.client.request(method, path)
    assert_refused(response, 405, 20004)
    assert set(response.headers["allow"].split(", ")) == allowed


async def test_the_journal_keeps_what_was_sent_and_how_it_was_answered(customer: Customer) -> None:
    sid = await customer.call()
    await customer.client.get(f"{LIST}?StartTime%3E=2024-01-01&To=1202")
    created, listed = customer.emulator.requests
    assert (created.method, created.path, created.query) == ("POST", LIST, "")
    assert created.form == tuple(FORM.items())
    assert created.status == 201
    assert created.headers["content-type"] == "application/x-www-form-urlencoded"
    assert (listed.method, listed.status, listed.form) == ("GET", 400, ())
    assert listed.query == "StartTime%3E=2024-01-01&To=1202"
    assert sid not in listed.path
    await customer.client.get(item("..%2FMessages"))
    assert customer.emulator.requests[-1].path.endswith("/Calls/..%2FMessages.json")


async def test_an_api_key_lets_in_and_its_secret_is_in_no_journal(customer: Customer) -> None:
    response = await customer.client.get(LIST, auth=(KEY_SID, KEY_SECRET))
    (entry,) = customer.emulator.requests
    assert (response.status_code, entry.username) == (200, KEY_SID)
    assert KEY_SECRET not in repr(entry)
    assert "authorization" not in entry.headers


async def test_the_journal_keeps_the_latest_requests_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_REQUESTS == 10_000
    monkeypatch.setattr("calls_mcp.emulator.middleware.MAX_REQUESTS", 2)
    async with Emulator() as emulator, using(emulator) as customer:
        for number in range(3):
            await customer.client.get(f"/{number}")
        assert [entry.path for entry in emulator.requests] == ["/1", "/2"]


async def test_a_broken_store_is_a_500_in_the_journal_too(
    customer: Customer, caplog: pytest.LogCaptureFixture
) -> None:
    customer.emulator.calls.close()
    response = await customer.client.get(LIST)
    assert response.status_code == 500
    assert customer.emulator.requests[0].status == 500
    assert "ProgrammingError" in caplog.text


async def test_an_account_does_not_show_its_secrets(account: Account) -> None:
    assert account.auth_token not in repr(account).replace(account.sid, "")
    assert KEY_SECRET not in repr(account)
