import re

import pytest

from calls_mcp.emulator import Emulator

from .customer import ACCOUNT, FORM, Customer, Fields, assert_refused, using

pytestmark = pytest.mark.anyio

OWN = "+15005550100"
LEFT_OUT: list[str] = []
MALFORMED = ("12025550123", "+0123", "+1 202 555 0123", "sip:kate", "kate")


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
async def test_each_refusal_has_the_documented_code_and_places_no_call(
    customer: Customer, changes: Fields, code: int
) -> None:
    assert_refused(await customer.post(changes), 400, code)
    assert await customer.listed() == []


@pytest.mark.parametrize("from_", ["sip:kate@example.com", "client:kate"])
async def test_a_phone_is_called_from_a_phone_number_only(customer: Customer, from_: str) -> None:
    assert_refused(await customer.post({"From": from_}), 400, 21212)
    assert await customer.call("client:bob", {"From": from_})


async def test_the_account_owns_the_numbers_it_is_given() -> None:
    own = "+12025550177"
    async with (
        Emulator(account=ACCOUNT, own_numbers=[own]) as emulator,
        using(emulator) as customer,
    ):
        assert (await customer.post({"From": own})).status_code == 201
        assert_refused(await customer.post({"From": OWN}), 400, 21210)
        assert (await customer.post({})).status_code == 201


async def test_a_call_to_a_number_of_the_account_leaves_two_records(customer: Customer) -> None:
    sid = await customer.call(OWN)
    inbound, outbound = (await customer.page())["calls"]
    assert outbound["sid"] == sid
    assert inbound["sid"] != sid
    assert (outbound["direction"], inbound["direction"]) == ("outbound-api", "inbound")
    assert inbound["parent_call_sid"] is None
    assert (inbound["to"], inbound["from"]) == (OWN, FORM["From"])
    customer.wait(4)
    assert [call["status"] for call in (await customer.page())["calls"]] == ["in-progress"] * 2


async def test_the_inbound_record_has_none_of_the_callers_wishes(customer: Customer) -> None:
    await customer.call(OWN, {"MachineDetection": "Enable"})
    customer.wait(4)
    inbound, outbound = (await customer.page())["calls"]
    assert (outbound["answered_by"], outbound["queue_time"]) == ("human", "1000")
    assert (inbound["answered_by"], inbound["queue_time"]) == (None, "0")
    received, placed = customer.emulator.calls.all()
    assert (placed.url, received.url) == (FORM["Url"], None)


async def test_twiml_beside_a_url_is_ignored(customer: Customer) -> None:
    sid = await customer.call(changes={"Twiml": "<Response/>"})
    call = customer.emulator.calls.get(sid)
    assert call is not None
    assert (call.url, call.twiml) == (FORM["Url"], None)
