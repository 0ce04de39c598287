"""The endpoints: credentials, paths and placing calls."""

import base64
import re

import pytest

from calls_mcp.emulator import Account, Emulator
from tests.emulator.api_client import (
    ACCOUNT,
    FORM,
    LIST,
    ApiClient,
    Fields,
    assert_refused,
    connected,
    item,
)

pytestmark = pytest.mark.anyio

KEY_SID, KEY_SECRET = next(iter(ACCOUNT.api_keys.items()))
NO_SID = f"CA{0:032}"
OWN = "+15005550100"
LEFT_OUT: list[str] = []
MALFORMED = ("2025550", "+0123", "555-0123", "sip:kate", "kate", "+1 202 555 0123 ext. 4")


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
async def test_invalid_credentials_are_401_with_a_challenge(api: ApiClient, header: str) -> None:
    headers = {"Authorization": header} if header else {}
    response = await api.client.get(LIST, headers=headers, auth=None)
    assert_refused(response, 401, 20003)
    assert response.headers["www-authenticate"].startswith("Basic ")


async def test_every_endpoint_requires_credentials_and_logs_the_request(api: ApiClient) -> None:
    item_path = item(await api.call())
    endpoints = [("POST", LIST), ("GET", LIST)]
    endpoints += [(method, item_path) for method in ("GET", "POST", "DELETE")]
    for method, path in endpoints:
        response = await api.client.request(method, path, data=FORM, auth=None)
        assert_refused(response, 401, 20003)
    assert [call.status for call in api.emulator.calls.all()] == ["queued"]
    form = tuple(FORM.items())
    assert [(each.method, each.path, each.status) for each in api.emulator.requests[1:]] == [
        (method, path, 401) for method, path in endpoints
    ]
    assert all((each.form, each.username) == (form, "") for each in api.emulator.requests[1:])


async def test_another_accounts_path_is_not_found(api: ApiClient) -> None:
    path = LIST.replace(ACCOUNT.sid, f"AC{9:032}")
    assert_refused(await api.client.get(path), 404, 20404)


@pytest.mark.parametrize("sid", [NO_SID, "CA1", f"SM{0:032}"])
async def test_an_unknown_call_is_not_found(api: ApiClient, sid: str) -> None:
    response = await api.client.get(item(sid))
    assert_refused(response, 404, 20404)
    assert item(sid) in response.json()["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/2010-04-01/Accounts",
        LIST + "/",
        LIST.removesuffix(".json"),
        item(f"..%2FMessages%2FSM{0:032}"),
        f"/2010-04-01/Accounts/{ACCOUNT.sid}/Messages.json",
    ],
)
async def test_an_unknown_path_is_not_found(api: ApiClient, path: str) -> None:
    assert_refused(await api.client.get(path), 404, 20404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", LIST, {"GET", "HEAD", "POST"}),
        ("DELETE", LIST, {"GET", "HEAD", "POST"}),
        ("PATCH", item(NO_SID), {"DELETE", "GET", "HEAD", "POST"}),
    ],
)
async def test_an_unsupported_method_is_405(
    api: ApiClient, method: str, path: str, allowed: set[str]
) -> None:
    response = await api.client.request(method, path)
    assert_refused(response, 405, 20004)
    assert set(response.headers["allow"].split(", ")) == allowed


async def test_the_repr_of_an_account_has_no_secrets(account: Account) -> None:
    assert account.auth_token not in repr(account).replace(account.sid, "")
    assert KEY_SECRET not in repr(account)


# Create


async def test_a_new_call_returns_201_and_the_complete_resource(api: ApiClient) -> None:
    response = await api.post({})
    call = response.json()
    path = f"/2010-04-01/Accounts/{ACCOUNT.sid}/Calls/{call['sid']}"
    subresources = call.pop("subresource_uris")
    assert response.status_code == 201
    assert re.fullmatch("CA[0-9a-f]{32}", call["sid"])
    assert subresources["recordings"] == f"{path}/Recordings.json"
    assert {"notifications", "payments", "events", "siprec", "streams"} < set(subresources)
    assert call == {
        "sid": call["sid"],
        "account_sid": ACCOUNT.sid,
        "parent_call_sid": None,
        "phone_number_sid": None,
        "group_sid": None,
        "trunk_sid": None,
        "to": "+12025550123",
        "to_formatted": "(202) 555-0123",
        "from": "+15005550006",
        "from_formatted": "(500) 555-0006",
        "caller_name": None,
        "forwarded_from": None,
        "status": "queued",
        "direction": "outbound-api",
        "date_created": "Tue, 01 Jan 2030 12:00:00 +0000",
        "date_updated": "Tue, 01 Jan 2030 12:00:00 +0000",
        "start_time": None,
        "end_time": None,
        "duration": None,
        "queue_time": "1000",
        "price": None,
        "price_unit": "USD",
        "answered_by": None,
        "api_version": "2010-04-01",
        "uri": f"{path}.json",
    }


@pytest.mark.parametrize(
    "to", ["sip:kate@example.com", "sips:kate@example.com", "client:kate", "+442079460000"]
)
async def test_only_north_american_numbers_are_formatted(api: ApiClient, to: str) -> None:
    call = await api.fetch(await api.call(to))
    assert call["to_formatted"] == to


@pytest.mark.parametrize(
    "instructions",
    [
        {"Url": "http://example.com:8080/voice?x=1"},
        {"Twiml": "<Response><Say>Hello\nthere</Say></Response>"},
        {"ApplicationSid": f"AP{0:032}"},
    ],
)
async def test_one_kind_of_instructions_is_enough(api: ApiClient, instructions: Fields) -> None:
    assert await api.call(changes={"Url": [], **instructions})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"Url": LEFT_OUT}, 21205),
        ({"To": LEFT_OUT}, 21201),
        ({"To": ""}, 21201),
        ({"From": LEFT_OUT}, 21213),
        ({"From": ""}, 21213),
        *(({"To": text}, 21211) for text in MALFORMED),
        *(({"From": text}, 21212) for text in MALFORMED),
        ({"To": "+15005550001"}, 21217),
        ({"To": "+15005550002"}, 21214),
        ({"To": "+15005550003"}, 21215),
        ({"To": "+15005550004"}, 21216),
        ({"From": "+15005550001"}, 21212),
        ({"From": "+12025550199"}, 21210),
    ],
)
async def test_each_error_has_the_documented_code_and_places_no_call(
    api: ApiClient, changes: Fields, code: int
) -> None:
    assert_refused(await api.post(changes), 400, code)
    assert await api.listed() == []


@pytest.mark.parametrize("from_", ["sip:kate@example.com", "kate@example.com", "client:a@b"])
async def test_a_sip_address_cannot_be_called_from_a_sip_or_client_address(
    api: ApiClient, from_: str
) -> None:
    assert_refused(await api.post({"To": "sip:bob@example.com", "From": from_}), 400, 21212)


@pytest.mark.parametrize("from_", ["Jack", "front-desk", OWN])
async def test_a_sip_address_can_be_called_from_a_user_name_or_a_number(
    api: ApiClient, from_: str
) -> None:
    sid = await api.call("sip:bob@example.com", {"From": from_})
    assert (await api.fetch(sid))["from"] == from_


@pytest.mark.parametrize("from_", ["kate", "client:kate"])
async def test_a_phone_number_can_only_be_called_from_a_phone_number(
    api: ApiClient, from_: str
) -> None:
    assert_refused(await api.post({"From": from_}), 400, 21212)
    assert await api.call("client:bob", {"From": from_})


@pytest.mark.parametrize(
    "to",
    ["(202) 555-0123", "202-555-0123", "2025550123", "12025550123", "+1 202 555 0123"],
)
async def test_the_usual_notations_of_numbers_are_accepted(api: ApiClient, to: str) -> None:
    call = await api.fetch(await api.call(to, {"From": "(500) 555-0006"}))
    assert (call["to"], call["from"]) == ("+12025550123", "+15005550006")


async def test_every_response_names_its_request(api: ApiClient) -> None:
    item_path = item(await api.call())
    requests = [("GET", item_path), ("GET", item_path), ("GET", item(NO_SID)), ("PUT", LIST)]
    responses = [await api.client.request(*each) for each in requests]
    responses.append(await api.client.get(LIST, auth=None))
    ids = [response.headers["Twilio-Request-Id"] for response in responses]
    assert len({*ids}) == len(ids)
    assert all(re.fullmatch("RQ[0-9a-f]{32}", each) for each in ids)


async def test_the_numbers_of_the_account_can_be_configured() -> None:
    own = "+12025550177"
    async with (
        Emulator(account=ACCOUNT, port=None, own_numbers=[own]) as emulator,
        connected(emulator) as api,
    ):
        assert (await api.post({"From": own})).status_code == 201
        assert_refused(await api.post({"From": OWN}), 400, 21210)
        assert (await api.post({})).status_code == 201


async def test_twiml_is_ignored_if_there_is_a_url(api: ApiClient) -> None:
    call = api.emulator.calls.get(await api.call(changes={"Twiml": "<Response/>"}))
    assert call is not None
    assert (call.url, call.twiml) == (FORM["Url"], None)


async def test_a_call_to_a_number_of_the_account_has_two_records(api: ApiClient) -> None:
    sid = await api.call(OWN, {"MachineDetection": "Enable"})
    inbound, outbound = (await api.page())["calls"]
    assert outbound["sid"] == sid
    assert inbound["sid"] != sid
    assert (outbound["direction"], inbound["direction"]) == ("outbound-api", "inbound")
    assert inbound["parent_call_sid"] is None
    assert re.fullmatch("PN[0-9a-f]{32}", inbound["phone_number_sid"])
    assert outbound["phone_number_sid"] is None
    assert (inbound["to"], inbound["from"]) == (OWN, FORM["From"])
    api.advance(4)
    inbound, outbound = (await api.page())["calls"]
    assert (outbound["status"], outbound["answered_by"]) == ("in-progress", "human")
    assert (inbound["status"], inbound["answered_by"]) == ("in-progress", None)
    received, placed = api.emulator.calls.all()
    assert (placed.url, received.url) == (FORM["Url"], None)
