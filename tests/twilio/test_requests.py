"""The requests in the emulator's log have the names, places and spelling of the reference."""

from xml.sax.saxutils import escape

import pytest

from calls_mcp.emulator import LoggedRequest
from tests.harness import ACCOUNT, CALLER, TALKS_FOR_AN_HOUR, Agent, Harness, open_harness, placing
from tests.strategies import (
    BASES,
    DOCUMENTED,
    SID,
    TOOLS,
    expected_sending,
    sample,
    sending,
)

pytestmark = pytest.mark.anyio

CALLS = f"/2010-04-01/Accounts/{ACCOUNT}/Calls"
AWKWARD = [
    "a&To=+15005550001",
    "a=b",
    "1 + 1",
    "100% #1?",
    "%26%0D%0A",
    "  two  spaces  ",
    "Grüße, 世界 \N{TELEPHONE RECEIVER}",
    "semi;colon",
    "\\'\"",
]


async def only_request(tool: str, **arguments: object) -> LoggedRequest:
    """Return the only request that reaches the API when a tool is called."""
    async with open_harness(calls_mcp_confirm="none") as harness, harness.connect() as agent:
        outcome = await agent.call(tool, **arguments)
        assert outcome.get("error", {}).get("kind") != "invalid_arguments", outcome
        (entry,) = harness.emulator.requests
    return entry


@pytest.mark.parametrize("tool", TOOLS)
async def test_a_documented_parameter_goes_where_the_reference_says(tool: str) -> None:
    async with open_harness(calls_mcp_confirm="none") as harness, harness.connect() as agent:
        for name in DOCUMENTED[tool]["parameters"]:
            value = 7 if name == "page_size" else sample(tool, name)  # more may not fit in a result
            arguments = {**BASES[tool], name: value}
            before = len(harness.emulator.requests)
            await agent.call(tool, **arguments)
            (entry,) = harness.emulator.requests[before:]
            sent = sending(entry)
            if tool == "list_calls" and name != "page_size":
                del sent.query["PageSize"]
            assert sent == expected_sending(tool, arguments)


@pytest.mark.parametrize("tool", TOOLS)
async def test_omitted_arguments_are_not_sent(tool: str) -> None:
    sent = sending(await only_request(tool, **BASES[tool]))
    assert sent.query == ({"PageSize": ["50"]} if tool == "list_calls" else {})
    assert sent.form == expected_sending(tool, BASES[tool]).form


async def test_an_array_is_sent_as_a_repeated_key_in_order() -> None:
    events = ["completed", "initiated", "answered"]
    recording = ["absent", "in-progress"]
    callback = "https://example.com/"
    arguments = placing(
        status_callback=callback,
        status_callback_event=events,
        record=True,
        recording_status_callback=callback,
        recording_status_callback_event=recording,
    )
    entry = await only_request("create_call", **arguments)
    assert [text for key, text in entry.form if key == "StatusCallbackEvent"] == events
    assert [text for key, text in entry.form if key == "RecordingStatusCallbackEvent"] == recording
    assert entry.status == 201


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (False, "false")])
@pytest.mark.parametrize(("name", "key"), [("record", "Record"), ("async_amd", "AsyncAmd")])
async def test_a_boolean_is_sent_in_lower_case(
    name: str, key: str, text: str, *, value: bool
) -> None:
    arguments = placing(machine_detection="Enable") | {name: value}
    entry = await only_request("create_call", **arguments)
    assert dict(entry.form)[key] == text
    assert entry.status == 201


async def test_a_whole_number_is_sent_without_a_fraction() -> None:
    entry = await only_request("create_call", **placing(timeout=60.0))
    assert dict(entry.form)["Timeout"] == "60"


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("start_time", "StartTime=2026-01-31"),
        ("start_time_before", "StartTime%3C=2026-01-31"),
        ("start_time_after", "StartTime%3E=2026-01-31"),
        ("end_time", "EndTime=2026-01-31"),
        ("end_time_before", "EndTime%3C=2026-01-31"),
        ("end_time_after", "EndTime%3E=2026-01-31"),
    ],
)
async def test_a_date_filters_operator_is_encoded_in_its_key(name: str, raw: str) -> None:
    entry = await only_request("list_calls", **{name: "2026-01-31"})
    assert raw in entry.query.split("&")
    assert entry.status == 200


async def test_the_colons_of_a_date_time_survive() -> None:
    when = "2026-01-31T09:00:00Z"
    entry = await only_request("list_calls", start_time_after=when)
    assert sending(entry).query["StartTime>"] == [when]
    assert entry.status == 200


@pytest.mark.parametrize(("arguments", "size"), [({}, 7), ({"page_size": 3}, 3)])
async def test_the_limit_is_sent_as_the_page_size_unless_a_page_size_is_given(
    arguments: dict[str, int], size: int
) -> None:
    entry = await only_request("list_calls", limit=7, **arguments)
    assert entry.query == f"PageSize={size}"


async def test_a_cursor_is_sent_as_its_position_and_filters() -> None:
    async with open_harness(calls_mcp_confirm="none") as harness, harness.connect() as agent:
        for _ in range(3):
            await agent.call("create_call", **placing())
        first = await agent.call("list_calls", limit=1, to=TALKS_FOR_AN_HOUR)
        cursor = first["next_cursor"]
        second = await agent.call("list_calls", cursor=cursor)
        before, after = harness.reads
    assert second["count"] == 1
    assert sending(before).query == {"To": [TALKS_FOR_AN_HOUR], "PageSize": ["1"]}
    assert sending(after).query.keys() == {"To", "PageSize", "Page", "PageToken"}
    assert cursor not in after.query


async def test_a_confirmation_token_is_never_sent(harness: Harness) -> None:
    async with harness.connect() as agent:
        sid = await agent.place()
        await agent.confirm("update_call", sid=sid, status="completed")
        await agent.confirm("delete_call", sid=sid)
    create, update, delete = map(sending, harness.changes)
    assert create.form == expected_sending("create_call", placing()).form
    assert update.form == {"Status": ["completed"]}
    assert delete.query == delete.form == {}


@pytest.mark.requirement("32")
@pytest.mark.parametrize("text", AWKWARD)
async def test_any_text_is_sent_as_one_value(text: str) -> None:
    twiml = f"<Response><Say>{escape(text)}</Say></Response>"
    arguments = placing(call_reason=text, sip_auth_password=text, twiml=twiml)
    entry = await only_request("create_call", **arguments)
    assert entry.form == (
        ("To", TALKS_FOR_AN_HOUR),
        ("From", CALLER),
        ("Twiml", twiml),
        ("CallReason", text),
        ("SipAuthPassword", text),
    )


async def test_the_lines_of_twiml_are_unchanged() -> None:
    twiml = "<Response>\r\n\t<Say>one\ntwo</Say>\r</Response>\n"
    entry = await only_request("create_call", **placing(twiml=twiml))
    assert dict(entry.form)["Twiml"] == twiml
    assert entry.status == 201


@pytest.mark.requirement("32")
async def test_the_filters_of_a_list_are_one_value_each() -> None:
    address = "sip:a&From=+1;b#c?d%20=@example.com"
    entry = await only_request("list_calls", to=address)
    assert sending(entry).query == {"To": [address], "PageSize": ["50"]}
    assert entry.status == 200


@pytest.mark.requirement("30")
@pytest.mark.parametrize("tool", TOOLS)
async def test_account_sid_replaces_the_configured_account(tool: str) -> None:
    account = "AC" + "9aB4" * 8
    entry = await only_request(tool, **BASES[tool], account_sid=account)
    assert entry.path == f"/2010-04-01/Accounts/{account}/Calls" + (
        f"/{SID}.json" if "sid" in BASES[tool] else ".json"
    )
    assert "AccountSid" not in str(entry.form) + entry.query
    assert entry.username == ACCOUNT


@pytest.mark.requirement("30")
@pytest.mark.parametrize("tool", ["fetch_call", "update_call", "delete_call"])
async def test_a_sid_is_one_segment_of_the_path(tool: str) -> None:
    sid = "CA" + "fE09" * 8
    entry = await only_request(tool, **{**BASES[tool], "sid": sid})
    assert entry.path == f"{CALLS}/{sid}.json"
    assert sid not in entry.query + str(entry.form)


@pytest.mark.parametrize(
    ("tool", "content_type"),
    [
        ("create_call", "application/x-www-form-urlencoded"),
        ("delete_call", None),
        ("fetch_call", None),
        ("list_calls", None),
        ("update_call", "application/x-www-form-urlencoded"),
    ],
)
async def test_only_a_form_has_a_body(tool: str, content_type: str | None) -> None:
    entry = await only_request(tool, **BASES[tool])
    assert entry.method == DOCUMENTED[tool]["method"]
    assert entry.headers.get("content-type") == content_type
    assert bool(entry.form) is (content_type is not None)


@pytest.mark.requirement("40")
async def test_read_only_tools_send_only_get_requests() -> None:
    async with open_harness(calls_mcp_confirm="none") as harness, harness.connect() as agent:
        for tool in TOOLS:
            await agent.call(tool, **BASES[tool])
        await everything_at_once(agent)
        methods = [entry.method for entry in harness.emulator.requests]
    assert methods == [*(DOCUMENTED[tool]["method"] for tool in TOOLS), "GET", "GET"]


async def everything_at_once(agent: Agent) -> None:
    for tool in ("list_calls", "fetch_call"):
        names = DOCUMENTED[tool]["parameters"]
        await agent.call(tool, **{name: sample(tool, name) for name in names})
