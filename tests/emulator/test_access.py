import base64

import httpx
import pytest

from calls_mcp.emulator import Account, Emulator
from calls_mcp.emulator.journal import KEPT

from .customer import ACCOUNT, FORM, LIST, Customer, assert_refused, item

pytestmark = pytest.mark.anyio

KEY_SID, KEY_SECRET = next(iter(ACCOUNT.api_keys.items()))
NO_SID = f"CA{0:032}"


def basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


@pytest.mark.parametrize("credentials", [(ACCOUNT.sid, ACCOUNT.auth_token), (KEY_SID, KEY_SECRET)])
async def test_the_token_and_an_api_key_let_in(
    emulator: Emulator, credentials: tuple[str, str]
) -> None:
    async with httpx.AsyncClient(base_url=emulator.base_url, auth=credentials) as client:
        assert (await client.get(LIST)).status_code == 200


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


async def test_every_endpoint_wants_credentials_and_does_nothing_without(
    emulator: Emulator, customer: Customer
) -> None:
    sid = await customer.call()
    async with httpx.AsyncClient(base_url=emulator.base_url) as client:
        responses = [
            await client.post(LIST, data=FORM),
            await client.get(LIST),
            await client.get(item(sid)),
            await client.post(item(sid), data={"Status": "canceled"}),
            await client.delete(item(sid)),
        ]
    for response in responses:
        assert_refused(response, 401, 20003)
    assert [call.status for call in emulator.calls.all()] == ["queued"]


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


async def test_the_journal_keeps_what_was_sent_and_how_it_was_answered(
    emulator: Emulator, customer: Customer
) -> None:
    sid = await customer.call()
    await customer.client.get(f"{LIST}?StartTime%3E=2024-01-01&To=1202")
    created, listed = emulator.requests
    assert (created.method, created.path, created.query) == ("POST", LIST, "")
    assert created.form == tuple(FORM.items())
    assert created.status == 201
    assert created.headers["content-type"] == "application/x-www-form-urlencoded"
    assert (listed.method, listed.status, listed.form) == ("GET", 400, ())
    assert listed.query == "StartTime%3E=2024-01-01&To=1202"
    assert sid not in listed.path


async def test_the_journal_keeps_the_path_as_it_was_sent(
    emulator: Emulator, customer: Customer
) -> None:
    await customer.client.get(item("..%2FMessages"))
    assert emulator.requests[0].path.endswith("/Calls/..%2FMessages.json")


async def test_the_journal_keeps_the_form_of_a_request_that_was_turned_away(
    emulator: Emulator,
) -> None:
    async with httpx.AsyncClient(base_url=emulator.base_url) as client:
        await client.post(LIST, data=FORM)
    assert emulator.requests[0].form == tuple(FORM.items())
    assert emulator.requests[0].username == ""


async def test_the_journal_names_the_user_and_never_the_password(
    emulator: Emulator, customer: Customer
) -> None:
    await customer.client.get(LIST, auth=(KEY_SID, KEY_SECRET))
    entry = emulator.requests[0]
    assert entry.username == KEY_SID
    assert KEY_SECRET not in repr(entry)
    assert "authorization" not in entry.headers


async def test_the_journal_keeps_the_latest_requests_only(
    emulator: Emulator, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert KEPT == 10_000
    monkeypatch.setattr("calls_mcp.emulator.journal.KEPT", 2)
    async with (
        Emulator(account=emulator.account) as small,
        httpx.AsyncClient(base_url=small.base_url) as client,
    ):
        for number in range(3):
            await client.get(f"/{number}")
        assert [entry.path for entry in small.requests] == ["/1", "/2"]
    assert customer.client.base_url.port


async def test_a_broken_store_is_a_500_in_the_journal_too(
    emulator: Emulator, customer: Customer, caplog: pytest.LogCaptureFixture
) -> None:
    emulator.calls.close()
    response = await customer.client.get(LIST)
    assert response.status_code == 500
    assert emulator.requests[0].status == 500
    assert "ProgrammingError" in caplog.text


async def test_an_account_does_not_show_its_secrets(account: Account) -> None:
    assert account.auth_token not in repr(account).replace(account.sid, "")
    assert KEY_SECRET not in repr(account)
