import json

import httpx
import pytest

from calls_mcp.emulator import Emulator, ManualClock
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

SID = f"{0:032}"
FORM_TYPE = "application/x-www-form-urlencoded"

ACCEPTED = [  # one value of each parameter is in test_official_client
    ("Url", "https://example.com/a?b=c#d"),
    ("StatusCallback", "https://example.com/under_score"),
    ("StatusCallbackEvent", "initiated"),
    ("StatusCallbackEvent", "ringing answered"),
    ("SendDigits", "1" * 32),
    ("SendDigits", "WABCD#*w"),
    ("Timeout", "1"),
    ("Timeout", "600"),
    ("RecordingStatusCallbackEvent", "completed absent"),
    ("MachineDetection", "DetectMessageEnd"),
    ("MachineDetectionSpeechThreshold", "1000"),
    ("MachineDetectionSpeechEndThreshold", "5000"),
    ("AsyncAmd", "false"),
    ("CallReason", ""),
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
    ("SendDigits", "1a", 20001),
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
async def test_documented_values_are_accepted(api: ApiClient, name: str, text: str) -> None:
    assert (await api.post({name: text})).status_code == 201


@pytest.mark.parametrize(("name", "text", "code"), REFUSED)
async def test_invalid_values_are_refused_and_place_no_call(
    api: ApiClient, name: str, text: str, code: int
) -> None:
    response = await api.post({name: text})
    assert_refused(response, 400, code)
    assert name in response.json()["message"]
    assert await api.listed() == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"to": "+12025550123"}, "'to'"),
        ({"Url": ["https://example.com", "https://example.com"]}, "2 times"),
        ({"Timeout": ["5", "5"]}, "2 times"),
    ],
)
async def test_the_error_names_an_unknown_or_repeated_key(
    api: ApiClient, changes: Fields, fault: str
) -> None:
    response = await api.post(changes)
    assert_refused(response, 400, 20001)
    assert fault in response.json()["message"]


async def test_unknown_parameters_are_ignored_unless_the_emulator_is_strict() -> None:
    surplus = {"AccountSid": ACCOUNT.sid, "to": "+1"}
    async with (
        Emulator(account=ACCOUNT, clock=ManualClock(), port=None) as emulator,
        connected(emulator) as api,
    ):
        client = api.client
        sid = await api.call(changes=surplus)
        responses = [
            await client.post(LIST, data=FORM, params=surplus),
            await client.get(LIST, params=surplus),
            await client.get(item(sid), params=surplus),
            await client.post(item(sid), data={"Status": "canceled", **surplus}, params=surplus),
            await client.delete(item(sid), params=surplus),
        ]
        page = await api.page({**surplus, "PageSize": "1"})
    assert [response.status_code for response in responses] == [201, 200, 200, 200, 204]
    assert page["uri"] == f"{LIST}?PageSize=1&Page=0"


async def test_unknown_query_keys_are_refused_by_every_endpoint(api: ApiClient) -> None:
    sid = await api.call()
    client = api.client
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
    assert [call["status"] for call in (await api.page())["calls"]] == ["queued"]


@pytest.mark.parametrize(
    ("content_type", "content", "status", "code"),
    [
        ("application/json", json.dumps(FORM).encode(), 400, 20001),
        (FORM_TYPE, b"To=\xff", 400, 20001),
        (FORM_TYPE, b"", 400, 21201),
        (f"{FORM_TYPE}; charset=utf-8", str(httpx.QueryParams(FORM)).encode(), 201, None),
    ],
)
async def test_a_body_must_be_a_form_in_utf_8(
    api: ApiClient, content_type: str, content: bytes, status: int, code: int | None
) -> None:
    headers = {"Content-Type": content_type}
    response = await api.client.post(LIST, content=content, headers=headers)
    assert (response.status_code, response.json().get("code")) == (status, code)
