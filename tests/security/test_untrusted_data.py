"""Items 12 to 15: what strangers write is data, and changes nothing of what this server says."""

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import mcp_types as types
import pytest
from jsonschema import Draft202012Validator
from mcp import Client

from calls_mcp.catalog import Json
from calls_mcp.emulator import Emulator
from calls_mcp.runtime import Runtime
from calls_mcp.server import build_server
from calls_mcp.settings import load_settings
from tests.rig import ACCOUNT, ERAS, PERMISSIVE, Agent, User, open_rig, placing, structured, text_of
from tests.security.conversation import Era, Tool, asked, token_for
from tests.security.hostile import LONGEST, ORDER, TEXTS, invisible, texts_in, unquoted
from tests.security.process import environment, started
from tests.upstream import SID, Step, Upstream, access, answer, call, page, scripted

pytestmark = pytest.mark.anyio

FREE_TEXTS = ("caller_name", "forwarded_from", "from", "to", "answered_by", "status", "direction")
STRANGERS = {"caller_name", "forwarded_from", "from", "to"}
OTHER_SID, OTHER_ACCOUNT = "CA" + "9" * 32, "AC" + "9" * 32
HTML = "<html><body>Please log in</body></html>"

CREATE: Tool = ("create_call", placing())
UPDATE: Tool = ("update_call", {"sid": SID, "status": "completed"})
DELETE: Tool = ("delete_call", {"sid": SID})
FETCH: Tool = ("fetch_call", {"sid": SID})
LIST: Tool = ("list_calls", {"limit": 1})
TOOLS = [pytest.param(tool, id=tool[0]) for tool in (CREATE, UPDATE, DELETE, FETCH, LIST)]


# 12: the text is a summary of the structured content and not its JSON, as the README says.


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("tool", ["fetch_call", "list_calls", "create_call", "update_call"])
async def test_item_12_strangers_text_is_data_in_typed_fields_marked_as_untrusted(
    tool: str, text: str
) -> None:
    hostile = call(**dict.fromkeys(FREE_TEXTS, TEXTS[text]))
    arguments = {"create_call": CREATE, "update_call": UPDATE, "fetch_call": FETCH}
    script = answer(200, page(hostile) if tool == "list_calls" else hostile)
    async with scripted(script) as (_, agent):
        result = await agent.client.call_tool(*arguments.get(tool, LIST))
    content = structured(result)
    (told,) = content["calls"] if tool == "list_calls" else [content["call"]]
    assert {*cast("list[str]", (result.meta or {})["calls-mcp/untrusted"])} >= STRANGERS
    for field in texts_in(content):
        assert not invisible(field, "")
        assert len(field) <= LONGEST
    said = text_of(result)
    assert not invisible(said)
    assert "INSTRUCTIONS" not in unquoted(said)
    assert "approved" not in unquoted(said)
    assert len(said) < 1000
    assert {name for name, value in told.items() if "INSTRUCTIONS" in str(value)} <= {*FREE_TEXTS}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("status", [400, 404, 500])
async def test_item_12_an_error_message_of_the_api_is_a_quotation(
    tool: Tool, text: str, status: int
) -> None:
    body = {"code": TEXTS[text], "message": TEXTS[text], "more_info": TEXTS[text], "detail": ORDER}
    async with scripted(answer(status, body), deadline=0.4) as (_, agent):
        result = await agent.client.call_tool(*tool)
    assert result.is_error
    for said in (*texts_in(structured(result)), text_of(result)):
        assert not invisible(said)
        assert "INSTRUCTIONS" not in unquoted(said)
        assert len(said) < 1000


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("field", ["status", "from", "to"])
async def test_item_12_a_confirmation_that_lapses_quotes_what_strangers_wrote(
    field: str, text: str
) -> None:
    before = answer(200, call(status="in-progress"))
    after = answer(200, call(**{"status": "in-progress"} | {field: TEXTS[text]}))
    async with scripted(before, after, calls_mcp_confirm="all") as (upstream, agent):
        token = await token_for(agent, UPDATE)
        outcome = await agent.call(UPDATE[0], **UPDATE[1], confirmation_token=token)
        assert upstream.changes == []
    assert outcome["outcome"] == "expired"
    assert not invisible(outcome["reason"])
    assert "INSTRUCTIONS" not in unquoted(outcome["reason"])


async def test_item_12_twiml_that_is_echoed_is_not_passed_on() -> None:
    echo = call(twiml=f"<Response><Say>{ORDER}</Say></Response>", uri=ORDER, annotation=ORDER)
    async with scripted(answer(200, echo)) as (_, agent):
        for tool in (CREATE, FETCH):
            assert ORDER not in (await agent.client.call_tool(*tool)).model_dump_json()


# 13

NO_CALLS: dict[str, Step] = {
    "HTML": answer(200, HTML),
    "nothing": answer(200, b""),
    "half of it": answer(200, json.dumps(call()).encode()[:100]),
    "null": answer(200, b"null"),
    "a list": answer(200, [call()]),
    "a text": answer(200, b'"CA"'),
    "NaN": answer(200, b"NaN"),
    "an empty object": answer(200, {}),
    "bottomless": answer(200, b"[" * 200_000),
    "bottomless objects": answer(200, b'{"sid":' * 100_000),
    "no UTF-8": answer(200, b'{"sid": "\xff\xfe"}'),
    "an immense number": answer(200, b'{"sid": ' + b"9" * 10_000 + b"}"),
    "another call": answer(200, call(sid=OTHER_SID)),
    "another account": answer(200, call(account_sid=OTHER_ACCOUNT)),
    "a SID with a line feed": answer(200, call(sid=f"{SID}\n")),
    "a SID that is none": answer(200, call(sid="../../Accounts")),
    "a list of SIDs": answer(200, call(sid=[SID])),
}


@pytest.mark.parametrize("broken", NO_CALLS)
@pytest.mark.parametrize("tool", [UPDATE, FETCH, LIST], ids=lambda tool: str(tool[0]))
async def test_item_13_an_answer_that_breaks_its_schema_is_a_tool_error(
    tool: Tool, broken: str
) -> None:
    async with scripted(NO_CALLS[broken], deadline=1) as (_, agent):
        result = await agent.client.call_tool(*tool)
    content = structured(result)
    assert result.is_error
    # A read is tried again, and the time may be up before that has left.
    expected = ("outcome_unknown",) if tool is UPDATE else ("unavailable", "unreachable")
    assert content["error"]["kind"] in expected
    for foreign in ("html", OTHER_ACCOUNT, "../..", "Traceback"):
        assert foreign not in result.model_dump_json()


WRONG: tuple[Json, ...] = (
    *(None, True, 0, -1, 10**400, 1.5, "", "x" * 100_000, "\x00"),
    *(["x"], [["x"]], {"x": "y"}, {"x": [{"y": 1}]}, "1e999", "NaN", "1_000", "٣", "0x10"),
    *("not a date", "Tue, 99 Nov 2023 99:99:99 +9999", "-0"),
)


@pytest.mark.parametrize("field", [*call(), "price", "duration", "start_time", "queue_time"])
async def test_item_13_a_field_of_the_wrong_kind_is_left_out_and_breaks_nothing(
    field: str,
) -> None:
    async with open_rig() as rig, rig.connect() as agent:
        tools = {tool.name: tool for tool in (await agent.client.list_tools()).tools}
    validator = Draft202012Validator(cast("dict[str, Any]", tools["fetch_call"].output_schema))
    for wrong in WRONG:
        body = json.dumps(call(**{field: wrong})).encode()
        async with scripted(answer(200, body), deadline=0.4) as (_, agent):
            result = await agent.client.call_tool(*FETCH)
        content = structured(result)
        validator.validate(content)  # pyright: ignore[reportUnknownMemberType]  # untyped there
        assert len(result.model_dump_json()) < 4096
        if field == "sid":
            assert content["outcome"] == "error"
        if field == "account_sid":
            assert content.get("call", {}).get("account_sid", ACCOUNT) == ACCOUNT


async def test_item_13_calls_of_others_are_left_out_of_a_list_and_that_is_told() -> None:
    others = call(account_sid=OTHER_ACCOUNT), None, "x", ["x"], call(sid=7), {"calls": "x"}
    async with scripted(answer(200, page(call(), *others))) as (_, agent):
        content = await agent.call("list_calls")
    assert [told["sid"] for told in content["calls"]] == [SID]
    assert content["warnings"] == ["6 entries could not be read"]


# 14


async def digest(client: Client) -> str:
    listed = await client.list_tools()
    told = json.dumps([tool.model_dump(mode="json") for tool in listed.tools], sort_keys=True)
    assert ORDER not in told
    assert SID not in told
    return hashlib.sha256(told.encode()).hexdigest()


@asynccontextmanager
async def any_client(
    runtime: Runtime, era: Era, user: User | None, name: str
) -> AsyncGenerator[Client]:
    info = types.Implementation(name=name, version="1")
    async with Client(
        build_server(runtime), mode=era, elicitation_callback=user, client_info=info, cache=None
    ) as client:
        yield client


async def test_item_14_the_list_of_tools_is_the_same_for_everybody_and_at_all_times() -> None:
    digests: set[str] = set()
    settings = load_settings({"calls_mcp_policy": PERMISSIVE, "calls_mcp_confirm": "none"})
    hostile = call(caller_name=ORDER)
    async with (
        Upstream(answer(400, {"message": ORDER}), answer(200, hostile)) as upstream,
        Runtime(settings, access(upstream.base_url)) as runtime,
    ):
        for era in ERAS:
            for user in (None, User()):
                async with any_client(runtime, era, user, f"client {len(digests)}") as client:
                    digests.add(await digest(client))
                    instructions = client.instructions or ""
                    for tool in (CREATE, UPDATE, FETCH, LIST, DELETE):
                        await client.call_tool(*tool)
                    digests.add(await digest(client))
                    assert ORDER not in instructions
    assert len(digests) == 1


# 15


async def test_item_15_only_what_is_the_same_for_everybody_may_be_kept() -> None:
    async with Emulator() as emulator, started(environment(emulator.base_url)) as server:
        listed = await server.ask("tools/list")
        assert listed["result"]["cacheScope"] == "public"
        prompts = await server.ask("prompts/list")
        assert prompts["result"]["cacheScope"] == "public"
        read = await server.ask("tools/call", name="list_calls", arguments={})
        question = await server.ask(
            "tools/call", name="create_call", arguments=placing(), capabilities={"elicitation": {}}
        )
        retried = await server.ask(
            "tools/call",
            name="create_call",
            arguments=placing(),
            capabilities={"elicitation": {}},
            requestState=question["result"]["requestState"],
            inputResponses={"confirm": {"action": "accept", "content": {"approve": True}}},
        )
    assert ACCOUNT not in json.dumps(listed)
    assert retried["result"]["structuredContent"]["outcome"] == "done"
    for result in (read["result"], question["result"], retried["result"]):
        assert result.get("cacheScope", "private") == "private"
        assert result.get("ttlMs", 0) == 0


async def test_item_15_a_client_that_keeps_what_it_may_asks_again_for_calls() -> None:
    async with open_rig() as rig, Client(rig.server, elicitation_callback=User()) as client:
        for _ in range(2):
            await client.call_tool(*LIST)
            question = await asked(Agent(client), CREATE)
            assert question.state
    assert len(rig.reads) == 2
