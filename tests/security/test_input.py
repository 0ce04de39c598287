"""Items 30 to 36: what a model sends is taken exactly for what it is, or refused."""

import json
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from calls_mcp.errors import ConfigurationError
from calls_mcp.settings import load_settings
from tests.rig import ACCOUNT, CALLER, ERAS, TWIML, Rig, open_rig, placing
from tests.security.conversation import Era
from tests.security.hostile import ORDER
from tests.security.process import environment, started
from tests.strategies import DOCUMENTED, is_url
from tests.upstream import (
    SECRET,
    SID,
    Exchange,
    Upstream,
    answer,
    call,
    page,
    redirect,
    scripted,
)

pytestmark = pytest.mark.anyio

HEX = "0123456789abcdefABCDEF0123456789"
URLS = [name for name in DOCUMENTED["create_call"]["parameters"] if is_url(name)]
TEXTS = [
    name for name, row in DOCUMENTED["create_call"]["parameters"].items() if row["type"] == "string"
]


def kind(outcome: Mapping[str, Any]) -> str:
    """What an outcome is, or of what kind its error."""
    return str(outcome["error"]["kind"] if "error" in outcome else outcome["outcome"])


# 30


def broken_sids(prefix: str) -> Iterator[str]:
    """What only looks like a SID."""
    sid = prefix + HEX
    yield from (f"{sid}\n", f"\n{sid}", f"{sid} ", f"{sid}\r\n", f"{sid}\0", sid[:-1], f"{sid}0")
    yield from (sid.lower(), sid[:-1] + "g", sid[:-1] + "\u0663", sid[:-1] + "\uff11", prefix)
    yield from (f"{sid}/../x", f"{sid}%2F", f"{sid}%0A", f"{sid}?a=b", f"{sid}#x", f"{sid};x", "")
    yield from (f"../{sid}", "../" * 10, f"{sid}.json", f"{sid}\\", f"{prefix}{'%41' * 10}xx")
    yield from (sid[:-3] + "%2F", sid[:-3] + "../", sid[:-1] + "?", sid[:-1] + "#", sid[:-1] + ";")
    yield from (sid[:-1] + "\u200b", "\u0391" + sid[1:], {"AC": "CA", "CA": "AC"}[prefix] + HEX)


@pytest.mark.parametrize("tool", ["fetch_call", "update_call", "delete_call", "list_calls"])
@pytest.mark.parametrize("era", ERAS)
async def test_item_30_a_sid_is_exactly_a_sid(rig: Rig, era: Era, tool: str) -> None:
    right = {"status": "completed"} if tool == "update_call" else {}
    sid = {} if tool == "list_calls" else {"sid": SID}
    async with rig.connect(era) as agent:
        outcomes = [
            await agent.call(tool, **right, **sid, account_sid=broken)
            for broken in broken_sids("AC")
        ]
        if sid:
            outcomes += [
                await agent.call(tool, **right, sid=broken) for broken in broken_sids("CA")
            ]
    assert {kind(outcome) for outcome in outcomes} == {"invalid_arguments"}
    assert rig.emulator.requests == ()


async def test_item_30_the_path_is_built_of_just_these_sids() -> None:
    sid, account = f"CA{HEX}", f"AC{HEX}"
    async with scripted(answer(204), answer(404)) as (upstream, agent):
        await agent.call("delete_call", sid=sid, account_sid=account)
        await agent.call("fetch_call", sid=sid, account_sid=account)
        await agent.call("update_call", sid=sid, status="completed")
        await agent.call("list_calls", account_sid=account, limit=7)
    assert [request.target for request in upstream.requests] == [
        f"/2010-04-01/Accounts/{account}/Calls/{sid}.json",
        f"/2010-04-01/Accounts/{account}/Calls/{sid}.json",
        f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{sid}.json",
        f"/2010-04-01/Accounts/{account}/Calls.json?PageSize=7",
    ]


# 31

FORBIDDEN_URLS = (
    *("http://example.com/x", "HTTP://example.com", "ftp://example.com", "file:///etc/passwd"),
    *("//example.com/x", "javascript:alert(1)", "https:example.com", "https:///x", "example.com"),
    *("https://user@example.com/", "https://user:pw@example.com/", "https://@example.com/"),
    *("https://example.com@127.0.0.1/", "https://example.com\\@evil.example/", "https://a:b@c@d/"),
    *("https://localhost/", "https://LOCALHOST./", "https://x.localhost/", "https://127.0.0.1/"),
    *("https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/"),
    *("https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://0/"),
    *("https://[fe80::1]/", "https://[fe80::1%25eth0]/", "https://[fc00::1]/", "https://[::]/"),
    *("https://10.0.0.1/", "https://172.16.0.1/", "https://192.168.1.1/", "https://100.64.0.1/"),
    *("https://169.254.169.254/latest/meta-data/", "https://metadata.google.internal/"),
    *("https://metadata/", "https://[fd00:ec2::254]/", "https://100.100.100.200/"),
    *("https://0.0.0.0/", "https://255.255.255.255/", "https://224.0.0.1/", "https://x.local/"),
    *("https://ex\u0430mple.com/", "https://example\u3002com/", "https://\u2460\u2461.com/"),
    *("https://example.com:0/", "https://example.com:99999/", "https://example.com:x/"),
    *("https://127%2e0%2e0%2e1/", "https://exa mple.com/", "https://example.com/\n", "https://\t/"),
    *("https://example.com/" + "x" * 4096, "", "https://", "https://?", "https://#"),
    *("https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://192.0.0.192/"),
)


@pytest.mark.parametrize("name", URLS)
async def test_item_31_an_address_that_is_not_plainly_public_and_https_is_refused(
    name: str,
) -> None:
    instructions = {} if name == "url" else {"twiml": TWIML}
    passed: list[str] = []
    async with open_rig(calls_mcp_policy=None) as rig, rig.connect() as agent:
        for url in FORBIDDEN_URLS:
            arguments = {"to": "+15005550205", "from": CALLER, **instructions, name: url}
            outcome = await agent.call("create_call", **arguments)
            if kind(outcome) not in ("invalid_arguments", "policy_denied"):
                passed.append(url)
        good = {"to": "+15005550205", "from": CALLER, **instructions, name: "https://a.example/x"}
        assert kind(await agent.call("create_call", **good)) == "confirmation_required"
        assert rig.emulator.requests == ()
    assert passed == []


async def test_item_31_an_address_is_never_fetched_by_this_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_up: list[object] = []
    resolve = socket.getaddrinfo

    def note(host: Any, *rest: Any, **more: Any) -> Any:  # noqa: ANN401  # as socket has it
        looked_up.append(host)
        return resolve(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", note)
    everywhere = {name: f"https://{name.replace('_', '-')}.example.com/x" for name in URLS}
    async with open_rig() as rig, rig.connect() as agent:
        sid = await agent.place(**everywhere, record=True, machine_detection="Enable")
        await agent.confirm("update_call", sid=sid, url=everywhere["url"])
        assert len(rig.changes) == 2
    assert {*looked_up} <= {"127.0.0.1", b"127.0.0.1"}


async def test_item_31_no_credentials_follow_a_redirect() -> None:
    async with Upstream(answer(200, call())) as other:
        for target in (other.base_url, f"{other.base_url}/x", other.base_url.replace("http:", "")):
            async with scripted(redirect(target), deadline=0.4) as (upstream, agent):
                outcomes = [
                    await agent.call("fetch_call", sid=SID),
                    await agent.call("list_calls"),
                    await agent.call("create_call", **placing()),
                    await agent.call("delete_call", sid=SID),
                ]
                assert SECRET not in json.dumps(outcomes)
                assert upstream.requests
            assert {outcome["outcome"] for outcome in outcomes} == {"error"}
        assert other.connections == 0


@pytest.mark.parametrize("name", ["base_url", "region", "edge", "proxy", "twilio_region", "host"])
async def test_item_31_where_the_api_is_can_not_be_argued_about(rig: Rig, name: str) -> None:
    async with Upstream(answer(200, page())) as other, rig.connect() as agent:
        outcome = await agent.call("list_calls", **{name: other.base_url})
        assert other.connections == 0
    assert kind(outcome) == "invalid_arguments"


@pytest.mark.parametrize(
    "setting",
    [
        *({"twilio_region": region} for region in ("ie1.evil", "ie1/", "IE1", "x@y", "-a", "a\n")),
        *({"twilio_edge": edge} for edge in ("dublin.evil", "dublin#", "dublin?", "a b", "")),
        {"calls_mcp_api_base_url": "http://api.twilio.com"},
        {"calls_mcp_api_base_url": "https://user:pw@api.twilio.com"},
        {"calls_mcp_api_base_url": "https://api.twilio.com?x=1"},
        {"calls_mcp_api_base_url": "file:///etc/passwd"},
        {"calls_mcp_api_base_url": "http://127.0.0.1@evil.example/"},
        {"calls_mcp_api_base_url": "http://127.0.0.1.evil.example/"},
    ],
    ids=str,
)
def test_item_31_where_the_api_is_is_checked_at_start(setting: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(setting)).upper()):
        load_settings(setting)


# 32

INJECTIONS = ("\r\n", "\n", "\r", "\0", "\ud800", "\udfff", "\x1b", "\x85", "\u2028")


@pytest.mark.parametrize("name", TEXTS)
async def test_item_32_a_control_character_in_any_text_is_refused(rig: Rig, name: str) -> None:
    row = DOCUMENTED["create_call"]["parameters"][name]
    right = {"to": "+15005550205", "from": CALLER, "twiml": TWIML}
    text = str(right.get(name, row.get("enum", [row.get("prefix", "https://a.example/") + HEX])[0]))
    allowed = ("\r\n", "\n", "\r") if name == "twiml" else ()  # which has lines
    async with rig.connect() as agent:
        for injection in INJECTIONS:
            if injection in allowed:
                continue
            for value in (f"{text}{injection}", f"{injection}{text}", f"x{injection}X-Y: z"):
                outcome = await agent.call("create_call", **placing(**{name: value}))
                assert kind(outcome) == "invalid_arguments"
                assert injection not in json.dumps(outcome, ensure_ascii=False)
    assert rig.emulator.requests == ()


async def test_item_32_a_lone_surrogate_on_the_wire_breaks_nothing() -> None:
    async with (
        Upstream(answer(201, call())) as upstream,
        started(environment(upstream.base_url)) as server,
    ):
        await server.initialize()
        arguments = json.dumps(placing(call_reason="SURROGATE")).replace("SURROGATE", "\\ud83d")
        params = f'{{"name": "create_call", "arguments": {arguments}}}'
        for number in (7, 8):
            line = (
                f'{{"jsonrpc": "2.0", "id": {number}, "method": "tools/call", "params": {params}}}'
            )
            await server.write(line)
        await server.request("ping")
        while "serverInfo" in str(message := await server.read()) or message.get("result") != {}:
            assert "confirmation_required" not in str(message)
        assert upstream.requests == []


async def test_item_32_what_looks_like_another_parameter_stays_in_its_value() -> None:
    reasons = ("a&To=+19005550199", "a%26To=%2B1900", "a=b;c=d", "a+b c", "\"'<>", "\u4e16\u754c&x")
    for reason in reasons:
        async with scripted(answer(201, call())) as (upstream, agent):
            await agent.call("create_call", **placing(call_reason=reason))
        (request,) = upstream.requests
        form = parse_qsl(request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
        assert [value for name, value in form if name == "To"] == ["+15005550205"]
        assert dict(form)["CallReason"] == reason
        assert len(form) == 4


async def test_item_32_a_filter_stays_in_its_value() -> None:
    async with scripted(answer(200, page())) as (upstream, agent):
        await agent.call("list_calls", to="client:a&From=%2B1&PageSize=1000#x", limit=5)
    assert upstream.requests[0].query == {
        "To": "client:a&From=%2B1&PageSize=1000#x",
        "PageSize": "5",
    }


# 33


DESTINATIONS: dict[str, tuple[str, ...]] = {
    "invalid_arguments": (
        *("911", "112", "", "+", "+0", "+0123456789", "15005550205", "++15005550205"),
        *("+1 500 555 0205", "+1-500-555-0205", "tel:+15005550205", "+1500555020512345"),
        *("+1500555020x", "+1500555\u0660205", "\uff0b15005550205", "+15005550205,1"),
        *("+15005550205;ext=1", "+15005550205,+15005550206", "mailto:a@b.example"),
        *("sip:", "sip:a", "sip:@", "client:", "sip:a@b.example\n", "client:\u0430"),
    ),
    "policy_denied": (
        *("+1911", "+112", "+49112", "+44999", "+441", "+61000", "+1112"),
        *("+19005550199", "+449098790000", "+499001234567"),
    ),
    "confirmation_required": (
        *("+15005550205", "+442079460958", "+493012345678"),
        *("sip:a@example.com", "sips:a@b.example", "client:a"),
    ),
}


@pytest.mark.parametrize(
    ("to", "expected"),
    [(to, expected) for expected, numbers in DESTINATIONS.items() for to in numbers],
)
async def test_item_33_a_destination_is_read_strictly_and_some_are_never_called(
    to: str, expected: str
) -> None:
    async with open_rig(calls_mcp_policy=None) as rig, rig.connect() as agent:
        outcome = await agent.call("create_call", **placing(to=to))
        assert rig.emulator.requests == ()
    assert kind(outcome) == expected


@pytest.mark.parametrize(
    ("rules", "allowed", "denied"),
    [
        ('allow_prefixes = ["+4930"]', "+493012345678", "+15005550205"),
        ('allow_countries = ["DE"]', "+493012345678", "+442079460958"),
        ('allow_sip = ["*@example.com"]', "sip:a@example.com", "sip:a@evil.example"),
        ("allow_clients = []", "+15005550205", "client:a"),
    ],
)
async def test_item_33_an_operator_can_allow_some_destinations_alone(
    tmp_path: Path, rules: str, allowed: str, denied: str
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(f"[destinations]\n{rules}\n", "utf-8")
    async with open_rig(calls_mcp_policy=policy) as rig, rig.connect() as agent:
        outcomes = [await agent.call("create_call", **placing(to=to)) for to in (allowed, denied)]
    assert [kind(outcome) for outcome in outcomes] == ["confirmation_required", "policy_denied"]


# 34

_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "lol"}">' for n in range(10))
BAD_TWIML = {
    "billion laughs": f"<!DOCTYPE x [{_LAUGHS}]><Response><Say>&l9;</Say></Response>",
    "an external entity": '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    "<Response><Say>&e;</Say></Response>",
    "a parameter entity": '<!DOCTYPE x [<!ENTITY % e SYSTEM "https://x.example/e">%e;]><Response/>',
    "a DTD alone": "<!DOCTYPE Response><Response/>",
    "an external DTD": '<!DOCTYPE Response SYSTEM "https://x.example/x.dtd"><Response/>',
    "an unknown entity": "<Response><Say>&nbsp;</Say></Response>",
    "not closed": "<Response><Say>Hello</Response>",
    "two roots": "<Response/><Response/>",
    "another root": "<html/>",
    "no XML": "Hello",
    "no text": " ",
    "an attribute twice": '<Response><Say a="1" a="2"/></Response>',
    "too long": f"<Response><Say>{'x' * 4000}</Say></Response>",
}


@pytest.mark.parametrize("twiml", BAD_TWIML)
@pytest.mark.parametrize("tool", ["create_call", "update_call"])
async def test_item_34_twiml_is_short_well_formed_and_without_entities(
    tool: str, twiml: str
) -> None:
    arguments = {"twiml": BAD_TWIML[twiml]}
    base = placing() if tool == "create_call" else {"sid": SID}
    async with open_rig(calls_mcp_policy=None) as rig, rig.connect() as agent:
        outcome = await agent.call(tool, **base | arguments)
        assert rig.emulator.requests == ()
    assert kind(outcome) in ("invalid_arguments", "policy_denied")
    assert len(json.dumps(outcome)) < 2000
    assert "root:" not in json.dumps(outcome)


# 35

NOT_A_NUMBER: tuple[object, ...] = (
    *("2", "60", "", True, False, 2.5, 10**400),
    *(1e300, 0, -1, [60], {"x": 60}, "1e400", "0x10", 2**31),
)
NOT_A_BOOLEAN: tuple[object, ...] = ("true", "false", "True", 1, 0, 1.0, "", [True], "yes")
NOT_A_DATE: tuple[object, ...] = (
    *("2026-02-30", "2026-13-01", "0000-01-01", "31.01.2026", "2026-1-1", "today", "", 20260131),
    *("2026-01-31T25:00:00Z", "2026-01-31\n", "2026-01-31T09:00:00", True, "2026-W01-1"),
    *("\u0662026-01-31", "2026-01-31T09:00:00+99:99", "20260131"),
)


@pytest.mark.parametrize(
    ("tool", "name", "wrong"),
    [
        pytest.param("create_call", "timeout", NOT_A_NUMBER, id="timeout"),
        pytest.param("create_call", "time_limit", NOT_A_NUMBER, id="time_limit"),
        pytest.param("list_calls", "limit", NOT_A_NUMBER, id="limit"),
        pytest.param("list_calls", "page_size", NOT_A_NUMBER, id="page_size"),
        pytest.param("create_call", "record", NOT_A_BOOLEAN, id="record"),
        pytest.param("create_call", "async_amd", NOT_A_BOOLEAN, id="async_amd"),
        pytest.param("list_calls", "start_time", NOT_A_DATE, id="start_time"),
        pytest.param("list_calls", "end_time_before", NOT_A_DATE, id="end_time_before"),
    ],
)
@pytest.mark.parametrize("era", ERAS)
async def test_item_35_a_value_of_another_type_is_refused_and_not_converted(
    rig: Rig, era: Era, tool: str, name: str, wrong: tuple[object, ...]
) -> None:
    base = placing() if tool == "create_call" else {}
    passed: list[object] = []
    async with rig.connect(era) as agent:
        for value in wrong:
            outcome = await agent.call(tool, **base, **{name: value})
            if kind(outcome) != "invalid_arguments":
                passed.append(value)
            else:
                assert outcome["error"]["faults"][0]["path"] == f"/{name}"
    assert passed == []
    assert rig.emulator.requests == ()


async def test_item_35_an_error_names_the_field_and_repeats_no_long_value(rig: Rig) -> None:
    long = ORDER * 2000
    async with rig.connect() as agent:
        for name in ("to", "from", "url", "twiml", "timeout", "record", "call_reason", long):
            result = await agent.client.call_tool("create_call", placing(**{name: long}))
            told = result.model_dump_json()
            assert len(told) < 4000
            assert "pydantic" not in told
            assert name[:20] in told
    assert rig.emulator.requests == ()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "9" * 5000])
async def test_item_35_a_number_that_json_should_not_have_is_refused_on_the_wire(
    number: str,
) -> None:
    async with (
        Upstream(answer(200, page())) as upstream,
        started(environment(upstream.base_url)) as server,
    ):
        await server.initialize()
        await server.write(
            '{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": '
            f'{{"name": "list_calls", "arguments": {{"limit": {number}}}}}}}'
        )
        await server.request("ping")
        while (message := await server.read()).get("result") != {}:
            if message.get("id") == 7 and "result" in message:
                assert message["result"]["structuredContent"]["outcome"] == "error"
        assert upstream.requests == []
        assert await server.end() == 0
        assert "Traceback" not in server.logged()


# 36


async def test_item_36_a_cursor_is_opaque_bound_and_can_not_be_tampered_with() -> None:
    listing = page(call(), following="/x?Page=1&PageSize=1&PageToken=PAx")
    filters = {"status": "completed", "limit": 1}
    async with scripted(answer(200, listing)) as (upstream, agent):
        cursor: str = (await agent.call("list_calls", **filters))["next_cursor"]
        before = len(upstream.requests)
        tampered = [
            *(
                cursor[:i] + ("A" if cursor[i] != "A" else "B") + cursor[i + 1 :]
                for i in (0, 9, -1)
            ),
            *(f"{cursor}x", f"x{cursor}", cursor[:-1], cursor.partition(".")[0], "PAx", "e30.x"),
            *(f"{cursor}\n", cursor + "=", cursor.upper(), json.dumps({"Page": 1})),
        ]
        outcomes = [await agent.call("list_calls", cursor=text) for text in tampered if text]
        outcomes += [
            await agent.call("list_calls", cursor=cursor, status="busy"),
            await agent.call("list_calls", cursor=cursor, to="+15005550199"),
            await agent.call("list_calls", cursor=cursor, account_sid="AC" + "8" * 32),
        ]
        assert len(upstream.requests) == before
        assert (await agent.call("list_calls", cursor=cursor))["outcome"] == "done"
    assert {kind(outcome) for outcome in outcomes} == {"invalid_arguments"}
    assert upstream.requests[-1].query["Status"] == "completed"


@pytest.mark.parametrize(
    "following",
    [
        "{other}/2010-04-01/Accounts/X/Calls.json?Page=1&PageToken=PAx",
        "//{host}/x?Page=1&PageToken=PAx",
        "@{host}/x?Page=1&PageToken=PAx",
        "/../../{host}?Page=1&PageToken=PA&To=%2B1900&AccountSid=AC1",
        "{other}\\?Page=1&PageToken=PAx#",
    ],
)
async def test_item_36_the_next_page_is_never_looked_for_elsewhere(following: str) -> None:
    async with Upstream(answer(200, page())) as other:
        host = other.base_url.removeprefix("http://")
        listing = page(call(), following=following.format(other=other.base_url, host=host))
        async with scripted(answer(200, listing), answer(200, page())) as (upstream, agent):
            assert (await agent.call("list_calls", limit=60))["outcome"] == "done"
        assert other.connections == 0
    paths = {request.target.partition("?")[0] for request in upstream.requests}
    assert paths == {f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json"}
    assert len(upstream.requests) == 2
    assert {*upstream.requests[1].query} <= {"PageSize", "Page", "PageToken"}


async def test_item_36_page_size_and_total_are_capped() -> None:
    async def endless_list(exchange: Exchange) -> None:
        number = len(requests)
        requests.append(exchange.request.query)
        calls = (call(sid=f"CA{number:016x}{i:016x}") for i in range(50))
        await answer(200, page(*calls, following=f"/x?Page={number}&PageToken=P{number}"))(exchange)

    requests: list[dict[str, str]] = []
    async with scripted(endless_list) as (_, agent):
        too_many = [
            await agent.call("list_calls", page_size=1001),
            await agent.call("list_calls", limit=10_001),
        ]
        assert requests == []
        everything = await agent.call("list_calls", limit=10_000)
    assert {kind(outcome) for outcome in too_many} == {"invalid_arguments"}
    assert everything["count"] <= 10_000
    assert "next_cursor" in everything
    assert len(requests) < 20
    assert all(int(query.get("PageSize", "0")) <= 1000 for query in requests)
    assert re.search("fit in one answer", str(everything["warnings"]))
