import httpx
import pytest

from .customer import FORM, LIST, Customer, assert_refused, item

pytestmark = pytest.mark.anyio

SID = f"{0:032}"

ACCEPTED = [
    ("Url", "https://example.com/a?b=c#d"),
    ("Method", "GET"),
    ("FallbackUrl", "http://example.com"),
    ("FallbackMethod", "POST"),
    ("StatusCallback", "https://example.com/under_score"),
    ("StatusCallbackEvent", "initiated"),
    ("StatusCallbackEvent", "ringing answered"),
    ("StatusCallbackMethod", "GET"),
    ("SendDigits", "ww12#*"),
    ("SendDigits", "1" * 32),
    ("Timeout", "1"),
    ("Timeout", "600"),
    ("TimeLimit", "86400"),
    ("Record", "true"),
    ("RecordingChannels", "dual"),
    ("RecordingStatusCallback", "https://example.com"),
    ("RecordingStatusCallbackMethod", "GET"),
    ("RecordingStatusCallbackEvent", "in-progress"),
    ("RecordingStatusCallbackEvent", "completed absent"),
    ("RecordingTrack", "both"),
    ("Trim", "do-not-trim"),
    ("SipAuthUsername", "kate"),
    ("SipAuthPassword", "made-up"),
    ("MachineDetection", "DetectMessageEnd"),
    ("MachineDetectionTimeout", "59"),
    ("MachineDetectionSpeechThreshold", "1000"),
    ("MachineDetectionSpeechEndThreshold", "5000"),
    ("MachineDetectionSilenceTimeout", "2000"),
    ("AsyncAmd", "false"),
    ("AsyncAmdStatusCallback", "https://example.com"),
    ("AsyncAmdStatusCallbackMethod", "POST"),
    ("CallerId", "+12025550123"),
    ("Byoc", f"BY{SID}"),
    ("CallReason", ""),
    ("CallToken", "token"),
]

REFUSED = [
    ("Url", "ftp://example.com", 21205),
    ("Url", "example.com/voice", 21205),
    ("Url", "https://", 21205),
    ("Url", "https://[::1/", 21205),
    ("Url", "https://example.com/a b", 21205),
    ("StatusCallback", "https://under_score.example.com", 21205),
    ("StatusCallback", "nowhere", 21205),
    ("StatusCallback", "http://127.0.0.1:99999/", 21205),
    ("StatusCallback", "http://127.0.0.1:0/", 21205),
    ("Twiml", "x" * 4001, 20001),
    ("Twiml", "", 20001),
    ("ApplicationSid", f"AC{SID}", 21218),
    ("Method", "get", 20001),
    ("StatusCallbackEvent", '["ringing","answered"]', 20001),
    ("StatusCallbackEvent", "ringing, answered", 20001),
    ("SendDigits", "1" * 33, 20001),
    ("SendDigits", "1W", 20001),
    ("Timeout", "0", 20001),
    ("Timeout", "601", 20001),
    ("Timeout", "60.0", 20001),
    ("Timeout", "٦٠", 20001),
    ("TimeLimit", "-1", 20001),
    ("Record", "True", 20001),
    ("RecordingStatusCallbackEvent", '["absent"]', 20001),
    ("MachineDetection", "enable", 20001),
    ("MachineDetectionSpeechThreshold", "999", 20001),
    ("MachineDetectionSpeechEndThreshold", "5001", 20001),
    ("MachineDetectionSilenceTimeout", "10001", 20001),
    ("AsyncAmd", "1", 20001),
    ("CallerId", "two words", 20001),
    ("Byoc", f"BY{SID}\n", 20001),
]


@pytest.mark.parametrize(("name", "text"), ACCEPTED)
async def test_documented_values_are_accepted(customer: Customer, name: str, text: str) -> None:
    assert (await customer.post({name: text})).status_code == 201


@pytest.mark.parametrize(("name", "text", "code"), REFUSED)
async def test_other_values_are_refused_and_place_no_call(
    customer: Customer, name: str, text: str, code: int
) -> None:
    response = await customer.post({name: text})
    assert_refused(response, 400, code)
    assert name in response.json()["message"]
    assert await customer.listed() == []


async def test_an_unknown_form_key_is_refused_by_name(customer: Customer) -> None:
    response = await customer.post({"to": "+12025550123"})
    assert_refused(response, 400, 20001)
    assert "'to'" in response.json()["message"]


@pytest.mark.parametrize("name", ["Url", "Timeout"])
async def test_a_single_value_given_twice_is_refused(customer: Customer, name: str) -> None:
    response = await customer.post({name: ["https://example.com", "https://example.com"]})
    assert_refused(response, 400, 20001)
    assert "2 times" in response.json()["message"]


async def test_unknown_query_keys_are_refused_by_every_endpoint(customer: Customer) -> None:
    sid = await customer.call()
    client = customer.client
    surplus = {"Limit": "1"}
    responses = [
        await client.post(LIST, data=FORM, params=surplus),
        await client.get(LIST, params=surplus),
        await client.get(item(sid), params=surplus),
        await client.post(item(sid), data={"Status": "canceled"}, params=surplus),
        await client.delete(item(sid), params=surplus),
    ]
    for response in responses:
        assert_refused(response, 400, 20001)
        assert "'Limit'" in response.json()["message"]
    assert [call["status"] for call in (await customer.page())["calls"]] == ["queued"]


async def test_a_json_body_is_refused(customer: Customer) -> None:
    assert_refused(await customer.client.post(LIST, json=FORM), 400, 20001)


async def test_a_body_that_is_not_utf_8_is_refused(customer: Customer) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = await customer.client.post(LIST, content=b"To=\xff", headers=headers)
    assert_refused(response, 400, 20001)


async def test_an_empty_body_lacks_a_destination(customer: Customer) -> None:
    assert_refused(await customer.client.post(LIST), 400, 21201)


async def test_a_charset_beside_the_content_type_is_fine(customer: Customer) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    content = str(httpx.QueryParams(FORM)).encode()
    response = await customer.client.post(LIST, content=content, headers=headers)
    assert response.status_code == 201
