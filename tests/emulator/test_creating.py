import re

import httpx
import pytest

from calls_mcp.emulator import DEFAULT_ACCOUNT, Emulator, ManualClock

from .customer import ACCOUNT, FORM, LIST, STRANGER, Customer, Fields, assert_refused

pytestmark = pytest.mark.anyio

OWN = "+15005550100"


async def test_a_new_call_is_answered_with_201_and_the_whole_resource(customer: Customer) -> None:
    response = await customer.post({})
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


async def test_every_call_gets_a_sid_of_its_own(customer: Customer) -> None:
    assert len({await customer.call() for _ in range(5)}) == 5


@pytest.mark.parametrize(
    "to", ["sip:kate@example.com", "sips:kate@example.com", "client:kate", "+442079460000"]
)
async def test_addresses_outside_north_america_are_shown_as_they_are(
    customer: Customer, to: str
) -> None:
    call = await customer.fetch(await customer.call(to))
    assert call["to_formatted"] == to


@pytest.mark.parametrize(
    "instructions",
    [
        {"Url": "http://example.com:8080/voice?x=1"},
        {"Twiml": "<Response><Say>Hello\nthere</Say></Response>"},
        {"ApplicationSid": f"AP{0:032}"},
    ],
)
async def test_any_one_kind_of_instructions_is_enough(
    customer: Customer, instructions: Fields
) -> None:
    assert await customer.call(changes={"Url": [], **instructions})


async def test_no_instructions_are_refused(customer: Customer) -> None:
    assert_refused(await customer.post({"Url": []}), 400, 21205)


@pytest.mark.parametrize(("name", "code"), [("To", 21201), ("From", 21213)])
@pytest.mark.parametrize("nothing", [[], ""])
async def test_a_missing_party_has_a_code_of_its_own(
    customer: Customer, name: str, code: int, nothing: list[str] | str
) -> None:
    assert_refused(await customer.post({name: nothing}), 400, code)


@pytest.mark.parametrize("text", ["12025550123", "+0123", "+1 202 555 0123", "sip:kate", "kate"])
@pytest.mark.parametrize(("name", "code"), [("To", 21211), ("From", 21212)])
async def test_a_malformed_party_is_refused(
    customer: Customer, name: str, code: int, text: str
) -> None:
    assert_refused(await customer.post({name: text}), 400, code)


@pytest.mark.parametrize(("digit", "code"), [(1, 21217), (2, 21214), (3, 21215), (4, 21216)])
async def test_magic_destinations_are_refused_as_documented(
    customer: Customer, digit: int, code: int
) -> None:
    assert_refused(await customer.post({"To": f"+1500555000{digit}"}), 400, code)
    assert await customer.listed() == []


async def test_the_magic_invalid_caller_is_refused(customer: Customer) -> None:
    assert_refused(await customer.post({"From": "+15005550001"}), 400, 21212)


async def test_a_caller_that_is_not_owned_is_refused(customer: Customer) -> None:
    assert_refused(await customer.post({"From": "+12025550199"}), 400, 21210)


@pytest.mark.parametrize("from_", ["sip:kate@example.com", "client:kate"])
async def test_a_phone_is_called_from_a_phone_number_only(customer: Customer, from_: str) -> None:
    assert_refused(await customer.post({"From": from_}), 400, 21212)
    assert await customer.call("client:bob", {"From": from_})


async def test_the_account_owns_the_numbers_it_is_given() -> None:
    own = "+12025550177"
    form = {**FORM, "From": own}
    async with Emulator(own_numbers=[own]) as emulator:
        assert (await _post(emulator, form)).status_code == 201
        assert_refused(await _post(emulator, {**form, "From": OWN}), 400, 21210)
        assert (await _post(emulator, FORM)).status_code == 201


async def test_a_lenient_emulator_lets_any_number_call() -> None:
    async with Emulator(any_from=True) as emulator:
        assert (await _post(emulator, {**FORM, "From": "+12025550177"})).status_code == 201
        assert_refused(await _post(emulator, {**FORM, "From": "+15005550001"}), 400, 21212)


async def test_a_call_to_a_number_of_the_account_leaves_two_records(
    customer: Customer, clock: ManualClock
) -> None:
    sid = await customer.call(OWN)
    inbound, outbound = (await customer.page())["calls"]
    assert outbound["sid"] == sid
    assert inbound["sid"] != sid
    assert (outbound["direction"], inbound["direction"]) == ("outbound-api", "inbound")
    assert inbound["parent_call_sid"] is None
    assert (inbound["to"], inbound["from"]) == (OWN, FORM["From"])
    clock.advance(4)
    assert [call["status"] for call in (await customer.page())["calls"]] == ["in-progress"] * 2


async def test_the_inbound_record_has_none_of_the_callers_wishes(
    customer: Customer, emulator: Emulator, clock: ManualClock
) -> None:
    await customer.call(OWN, {"MachineDetection": "Enable"})
    clock.advance(4)
    inbound, outbound = (await customer.page())["calls"]
    assert (outbound["answered_by"], outbound["queue_time"]) == ("human", "1000")
    assert (inbound["answered_by"], inbound["queue_time"]) == (None, "0")
    received, placed = emulator.calls.all()
    assert (placed.url, received.url) == (FORM["Url"], None)


async def test_a_call_to_anybody_else_leaves_one_record(
    customer: Customer, emulator: Emulator
) -> None:
    await customer.call(STRANGER)
    assert emulator.calls.count() == 1


async def test_twiml_beside_a_url_is_ignored(customer: Customer, emulator: Emulator) -> None:
    sid = await customer.call(changes={"Twiml": "<Response/>"})
    call = emulator.calls.get(sid)
    assert call is not None
    assert (call.url, call.twiml) == (FORM["Url"], None)


async def test_events_come_as_repeated_keys(customer: Customer, emulator: Emulator) -> None:
    await customer.call(changes={"StatusCallbackEvent": ["ringing", "answered"]})
    events = [text for name, text in emulator.requests[0].form if name == "StatusCallbackEvent"]
    assert events == ["ringing", "answered"]


async def _post(emulator: Emulator, form: Fields) -> httpx.Response:
    credentials = emulator.account.sid, emulator.account.auth_token
    path = LIST.replace(ACCOUNT.sid, DEFAULT_ACCOUNT.sid)
    async with httpx.AsyncClient(base_url=emulator.base_url, auth=credentials) as client:
        return await client.post(path, data=dict(form))
