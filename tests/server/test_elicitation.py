"""Elicitation in both protocol versions, and which answers confirm a change."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client, MCPError
from mcp.client import ClientRequestContext
from mcp_types import ElicitResult

from calls_mcp.emulator import Emulator
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from tests.confirmation import NO, YES, Tool, asked, changes_of, interview, token_for
from tests.harness import (
    ERAS,
    PERMISSIVE,
    TALKS_FOR_AN_HOUR,
    Agent,
    Era,
    Harness,
    Reply,
    User,
    access_to,
    approve,
    decline,
    dismiss,
    open_harness,
    placing,
    structured,
)
from tests.strategies import DOCUMENTED, is_date, is_url, sample
from tests.untrusted_text import TEXTS, invisible, unquoted
from tests.upstream import SID, answer, call, scripted

pytestmark = pytest.mark.anyio

OTHER_ACCOUNT = "AC" + "7" * 32
CHANGES = ("create_call", "update_call", "delete_call")
LIVE = {"status": "in-progress"}


@pytest.mark.parametrize("era", ERAS)
async def test_the_question_says_that_a_call_of_the_sandbox_is_not_real(era: Era) -> None:
    user = User(approve)
    async with open_harness(sandbox=True) as harness, harness.connect(era, user) as agent:
        outcome = await agent.call("create_call", **placing())
    assert outcome["sandbox"]
    assert user.asked[0].startswith("[sandbox: no real calls]\nCall +")


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_can_ask_its_user_asks_once_and_places_one_call(
    harness: Harness, era: Era
) -> None:
    user = User(approve)
    async with harness.connect(era, user) as agent:
        outcome = await agent.call("create_call", **placing())
    assert outcome["outcome"] == "done"
    assert len(user.asked) == 1
    assert TALKS_FOR_AN_HOUR in user.asked[0]
    assert len(harness.changes) == 1


def answering(action: str, **content: object) -> Reply:
    """A client's answer, without the checks of its library."""
    reply = ElicitResult.model_construct(action=action, content=content or None)
    return lambda _message: reply


@pytest.mark.requirement("01", "04")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param(decline, "said no", id="decline"),
        pytest.param(dismiss, "dismissed", id="cancel"),
        pytest.param(answering("decline", approve=True), "said no", id="a decline with a yes"),
        pytest.param(answering("cancel", approve=True), "dismissed", id="a cancel with a yes"),
        pytest.param(answering("accept", approve=False), "did not confirm", id="false"),
    ],
)
async def test_a_persons_no_declines_a_change(
    harness: Harness, era: Era, reply: Reply, reason: str
) -> None:
    tools = await changes_of(harness)
    before = harness.changes
    async with harness.connect(era, User(reply)) as agent:
        outcomes = [await agent.call(name, **arguments) for name, arguments in tools]
    assert [outcome["outcome"] for outcome in outcomes] == ["declined"] * 3
    assert all(reason in outcome["reason"] for outcome in outcomes)
    assert harness.changes == before


@pytest.mark.requirement("01", "06")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("policy", [None, PERMISSIVE], ids=["shipped policy", "permissive policy"])
async def test_a_client_that_cannot_ask_gets_a_preview_and_a_valid_token(
    policy: Path | None, era: Era
) -> None:
    async with open_harness(calls_mcp_policy=policy) as harness:
        tools = await changes_of(harness)
        before = harness.changes
        async with harness.connect(era) as agent:
            questions = [await agent.call(name, **arguments) for name, arguments in tools]
            assert harness.changes == before
            assert [q["outcome"] for q in questions] == ["confirmation_required"] * 3
            for (name, arguments), question in zip(tools, questions, strict=True):
                token = question["confirmation"]["token"]
                done = await agent.call(name, **arguments, confirmation_token=token)
                assert done["outcome"] == "done"
        assert len(harness.changes) == len(before) + 3


@pytest.mark.requirement("10")
@pytest.mark.parametrize("era", ERAS)
async def test_elicitation_shows_the_preview_and_asks_only_for_approval(
    harness: Harness, era: Era
) -> None:
    forms: list[types.ElicitRequestFormParams] = []

    async def read(
        context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> ElicitResult:
        del context
        assert isinstance(params, types.ElicitRequestFormParams)
        forms.append(params)
        return dismiss("")

    create, *others = await changes_of(harness)
    create[1]["sip_auth_password"] = "canary"
    async with Client(harness.server, mode=era, elicitation_callback=read) as client:
        for tool in (create, *others):
            await client.call_tool(*tool)
    assert "Call +1 500" in forms[0].message
    assert len(forms) == 3
    for form in forms:
        assert "canary" not in form.message
        assert [*form.requested_schema["properties"]] == ["approve"]
        assert form.requested_schema["properties"]["approve"]["type"] == "boolean"
        told = json.dumps(form.requested_schema).lower()
        assert not re.search(r"https?:|www\.|pass|secret|token|credential|pin|key|card", told)


async def hesitate(
    context: ClientRequestContext, params: types.ElicitRequestParams
) -> ElicitResult:
    del context, params
    await anyio.sleep_forever()
    return YES


@pytest.mark.requirement("28")
async def test_a_client_that_disconnects_during_elicitation_places_no_call(
    harness: Harness,
) -> None:
    opened = anyio.Event()

    async def leave(
        context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> ElicitResult:
        opened.set()
        return await hesitate(context, params)

    async def place() -> None:
        async with Client(harness.server, mode="legacy", elicitation_callback=leave) as client:
            await client.call_tool("create_call", placing())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place)
        await opened.wait()
        tasks.cancel_scope.cancel()
    async with harness.connect() as agent:
        await agent.call("list_calls")
    assert harness.changes == []


# What an approval is valid for


def every_argument(tool: str) -> dict[str, object]:
    """All arguments that can be given together; the policy of the tests allows them."""
    names = [name for name in DOCUMENTED[tool]["parameters"] if name != "account_sid"]
    if tool == "update_call":
        names.remove("twiml")  # which excludes url
    return {name: sample(tool, name) for name in names} | ({"sid": SID} if "sid" in names else {})


def another(tool: str, name: str, value: object) -> object:
    """A valid value that differs from `value`."""
    choices = DOCUMENTED[tool]["parameters"][name].get("enum", [])
    match value:
        case bool():
            return not value
        case int():
            return value - 1
        case list():
            return ["completed"]
        case _ if choices:
            return next(choice for choice in choices if choice != value)
        case _:
            return _another_text(name, str(value))


def _another_text(name: str, text: str) -> str:
    if name in ("to", "from", "send_digits"):
        return {"to": TALKS_FOR_AN_HOUR, "from": "+15005550006"}.get(name, "1")
    if is_url(name) or is_date(name):
        return text.replace("?a=1", "?a=2")
    if name == "twiml":
        return f"{text}\n"
    return text[:-1] + ("0" if text[-1] != "0" else "1")


@pytest.mark.requirement("01", "06")
@pytest.mark.parametrize("tool", CHANGES)
async def test_a_token_is_valid_only_for_its_tool_arguments_and_account_even_after_refusals(
    tool: str,
) -> None:
    situation = answer(200, call(status="completed" if tool == "delete_call" else "ringing"))
    arguments = every_argument(tool)
    swaps: list[dict[str, object]] = [
        *({**arguments, name: another(tool, name, value)} for name, value in arguments.items()),
        *({k: v for k, v in arguments.items() if k != name} for name in arguments),
        {**arguments, "account_sid": OTHER_ACCOUNT},
    ]
    needed = {"sid", "to", "from"} & {*arguments}
    async with scripted(situation, calls_mcp_confirm="all") as (upstream, agent):
        token = await token_for(agent, (tool, arguments))
        refused = [
            await agent.call(tool, **swap, confirmation_token=token)
            for swap in swaps
            if needed <= {*swap}
        ]
        assert len(refused) > len(arguments)
        assert "differ from the confirmed ones" in refused[0]["error"]["message"]
        for other in {*CHANGES} - {tool}:
            given = every_argument(other)
            refused.append(await agent.call(other, **given, confirmation_token=token))
            assert f"the confirmation is for {tool}, not {other}" in refused[-1]["error"]["message"]
        assert upstream.changes == []
        await agent.call(tool, **arguments, confirmation_token=token)
        assert len(upstream.changes) == 1
    assert {outcome["error"]["kind"] for outcome in refused} == {"invalid_confirmation"}


@pytest.mark.requirement("01")
async def test_an_approval_for_other_arguments_is_refused(harness: Harness) -> None:
    arguments = every_argument("create_call")
    changes = {name: another("create_call", name, value) for name, value in arguments.items()}
    async with harness.connect(user=User()) as agent:
        question = await asked(agent, ("create_call", arguments))
        for name, value in {**changes, "account_sid": OTHER_ACCOUNT}.items():
            changed = replace(question, tool=("create_call", {**arguments, name: value}))
            with pytest.raises(MCPError, match="requestState"):
                await changed.answer(YES)
    assert harness.changes == []


@pytest.mark.requirement("03")
async def test_a_token_is_refused_by_a_server_of_another_account_with_the_same_keys(
    tmp_path: Path,
) -> None:
    shared = load_settings(
        {
            "calls_mcp_policy": PERMISSIVE,
            "calls_mcp_secret_keys": "k" * 32,
            "calls_mcp_state_url": f"sqlite:///{tmp_path / 'state.db'}",
        }
    )
    async with Emulator() as emulator:
        access = access_to(emulator.base_url)
        async with (
            Runtime(shared, access) as one,
            Runtime(shared, replace(access, account_sid=OTHER_ACCOUNT)) as two,
            Client(build_server(one)) as ours,
            Client(build_server(two)) as others,
        ):
            token = await token_for(Agent(ours), ("create_call", placing()))
            outcome = await Agent(others).call("create_call", **placing(confirmation_token=token))
        assert emulator.requests == ()
    assert outcome["error"]["kind"] == "invalid_confirmation"


@pytest.mark.requirement("02")
async def test_a_replayed_approval_returns_the_first_outcome_and_places_no_second_call(
    harness: Harness,
) -> None:
    outcomes: list[dict[str, Any]] = []
    async with interview(harness) as one:

        async def accept() -> None:
            outcomes.append(await one.answer(YES))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(accept)
        await accept()
    assert {outcome["outcome"] for outcome in outcomes} == {"done"}
    assert len({outcome["call"]["sid"] for outcome in outcomes}) == 1
    assert "already used" in outcomes[-1]["warnings"][0]
    assert len(harness.changes) == 1


@pytest.mark.requirement("02")
@pytest.mark.parametrize("no", [NO, dismiss("")], ids=["decline", "cancel"])
async def test_a_declined_request_state_cannot_be_approved_later(
    harness: Harness, no: ElicitResult
) -> None:
    async with interview(harness) as one:
        outcomes = [await one.answer(reply) for reply in (no, YES, YES)]
    assert [outcome["outcome"] for outcome in outcomes] == ["declined"] * 3
    assert harness.changes == []


@pytest.mark.requirement("07")
@pytest.mark.parametrize("user", [User(), None], ids=["can ask", "can not ask"])
async def test_an_unsolicited_approval_does_nothing(harness: Harness, user: User | None) -> None:
    async with harness.connect(user=user) as agent:
        ask: Any = agent.client.session.call_tool
        answers = {"input_responses": {"confirm": YES}, "allow_input_required": True}
        result = await ask("create_call", placing(), **answers)
        is_asked = isinstance(result, types.InputRequiredResult)
        assert is_asked or structured(result)["outcome"] == "confirmation_required"
        for state in ("made up", ""):
            with pytest.raises(MCPError, match="requestState"):
                await ask("create_call", placing(), **answers, request_state=state)
    assert harness.changes == []


async def test_a_modified_request_state_is_refused(harness: Harness) -> None:
    async with interview(harness) as one:
        middle = len(one.state) // 2
        swapped = "A" if one.state[middle] != "A" else "B"
        with pytest.raises(MCPError, match="requestState"):
            await one.answer(YES, state=one.state[:middle] + swapped + one.state[middle + 1 :])
    assert harness.changes == []


@pytest.mark.requirement("03", "05")
async def test_another_client_cannot_use_a_request_state(harness: Harness) -> None:
    async with interview(harness, "one") as one, interview(harness, "two") as two:
        with pytest.raises(MCPError, match="requestState"):
            await two.answer(YES, state=one.state)
        assert harness.changes == []
        assert (await one.answer(YES))["outcome"] == "done"


@pytest.mark.requirement("07", "44")
@pytest.mark.parametrize("era", ERAS)
async def test_only_arguments_can_confirm_a_change(harness: Harness, era: Era) -> None:
    meta: Any = {
        **dict.fromkeys(("confirm", "approved", "force", "principal", "calls-mcp/confirm"), True),
        "calls-mcp/approved": {"approve": True},
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }
    async with harness.connect(era, name="one") as one, harness.connect(era, name="two") as two:
        question = structured(await one.client.call_tool("create_call", placing(), meta=meta))
        assert question["outcome"] == "confirmation_required"
        again = placing(confirmation_token=question["confirmation"]["token"])
        stolen = structured(await two.client.call_tool("create_call", again, meta=meta))
        assert stolen["error"]["kind"] == "invalid_confirmation"
        assert harness.changes == []


# Changes between the preview and the confirmation


@pytest.mark.requirement("08")
@pytest.mark.parametrize("era", ERAS)
async def test_a_call_that_ends_between_question_and_answer_is_not_changed(
    harness: Harness, era: Era
) -> None:
    def reply(message: str) -> ElicitResult:
        harness.clock.advance(200)
        return approve(message)

    async with harness.connect() as agent:
        sid = await agent.place()
    harness.clock.advance(3500)
    before = harness.changes
    async with harness.connect(era, User(reply)) as agent:
        outcome = await agent.call("update_call", sid=sid, status="completed")
    assert outcome["outcome"] == "expired"
    assert "it was in progress" in outcome["reason"]
    assert "it is completed" in outcome["reason"]
    assert harness.changes == before


@pytest.mark.requirement("08")
@pytest.mark.parametrize("tool", ["update_call", "delete_call"])
@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"status": "ringing"}, id="another status"),
        pytest.param({"to": "+15005550199"}, id="another callee"),
        pytest.param({"from": "+15005550199"}, id="another caller"),
        pytest.param({"sid": "CA" + "7" * 32}, id="another call"),
        pytest.param({"account_sid": OTHER_ACCOUNT}, id="another account"),
    ],
)
async def test_a_call_that_differs_from_its_preview_is_not_changed(
    tool: str, changed: dict[str, object]
) -> None:
    arguments: dict[str, object] = {"sid": SID}
    if tool == "update_call":
        arguments["status"] = "completed"
    shown = LIVE if tool == "update_call" else {"status": "completed"}
    steps = answer(200, call(**shown)), answer(200, call(**shown | changed))
    async with scripted(*steps, calls_mcp_confirm="all") as (upstream, agent):
        token = await token_for(agent, (tool, arguments))
        outcome = await agent.call(tool, **arguments, confirmation_token=token)
        assert upstream.changes == []
    assert outcome["outcome"] in ("expired", "error")


@pytest.mark.requirement("12")
@pytest.mark.parametrize("field", ["status", "from", "to"])
async def test_an_expired_confirmation_quotes_text_from_strangers(field: str) -> None:
    told = [call(**LIVE | {field: text}) for text in TEXTS.values()]
    steps = [answer(200, each) for after in told for each in (call(**LIVE), after)]
    async with scripted(*steps, calls_mcp_confirm="all") as (upstream, agent):
        for _ in told:
            tool: Tool = ("update_call", {"sid": SID, "status": "completed"})
            token = await token_for(agent, tool)
            outcome = await agent.call(tool[0], **tool[1], confirmation_token=token)
            assert outcome["outcome"] == "expired"
            assert not invisible(outcome["reason"])
            assert "INSTRUCTIONS" not in unquoted(outcome["reason"])
        assert upstream.changes == []
