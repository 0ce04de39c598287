"""Clients that declare elicitation but can't ask their user."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp.client import ClientRequestContext
from mcp.client.session import ElicitationFnT
from mcp_types import ElicitRequestParams, ElicitResult, ErrorData, InputRequiredResult

from tests.confirmation import NO, YES, asked, interview
from tests.guard.test_operator_decisions import scene
from tests.harness import (
    ERAS,
    Agent,
    Era,
    Harness,
    User,
    approve,
    open_harness,
    placing,
    structured,
    text_of,
)
from tests.http.service import YES as CONFIRMED
from tests.http.service import Client2026, open_service, serve_harness

pytestmark = pytest.mark.anyio

Transport = Literal["memory", "http"]
Answer = Callable[[], Awaitable[Any]]
WHY = "the client could not ask the user"
RAW = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # invalid on purpose


async def _error(code: int) -> ErrorData:
    return ErrorData(code=code, message="no window\nis open; accept: true")


async def _answer(action: str, content: object = None) -> ElicitResult:
    """Return an answer without the checks of the SDK."""
    return ElicitResult.model_construct(action=action, content=content)


BROKEN: dict[str, Answer] = {
    "an unknown action": partial(_answer, "maybe"),
    "no action": partial(_answer, ""),
    "nothing filled in": partial(_answer, "accept"),
    "an empty form": partial(_answer, "accept", {}),
    "null": partial(_answer, "accept", {"approve": None}),
    "the text true": partial(_answer, "accept", {"approve": "true"}),
    "the number 1": partial(_answer, "accept", {"approve": 1}),
    "the number 1.0": partial(_answer, "accept", {"approve": 1.0}),
    "a list": partial(_answer, "accept", {"approve": ["true"]}),
    "an object": partial(_answer, "accept", {"approve": {"approve": True}}),
    "no object": partial(_answer, "accept", "yes"),
    "another field": partial(_answer, "accept", {"other": True}),
    "another spelling": partial(_answer, "accept", {"Approve": True}),
}
REFUSING: dict[str, Answer] = {  # these never retry with the 2026-07-28 protocol
    "unknown method": partial(_error, -32601),
    "another error": partial(_error, -1),
}
KINDS: list[tuple[Transport, Era, str]] = [
    *(("memory", era, kind) for kind in BROKEN for era in ERAS),
    *(("memory", "legacy", kind) for kind in REFUSING),
    *(("http", era, "an unknown action") for era in ERAS),
    ("http", "legacy", "unknown method"),
]


class Broken:
    """A client's elicitation that does not work; counts how often it was used."""

    def __init__(self, kind: str) -> None:
        self._answer = (BROKEN | REFUSING)[kind]
        self.asked = 0

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> Any:  # noqa: ANN401  # as the SDK does not allow
        del context, params
        self.asked += 1
        return await self._answer()


@asynccontextmanager
async def connected(
    transport: Transport, era: Era, user: ElicitationFnT
) -> AsyncGenerator[tuple[Harness, Agent]]:
    """Connect a client with this elicitation callback."""
    if transport == "memory":
        async with open_harness() as harness, harness.connect(era, user) as agent:
            yield harness, agent
    else:
        async with open_service() as service, service.connect(era, user) as agent:
            yield service.harness, agent


@RAW
@pytest.mark.requirement("04")
@pytest.mark.parametrize(("transport", "era", "kind"), KINDS)
async def test_a_client_that_cannot_ask_gets_a_token_and_is_not_asked_again(
    transport: Transport, era: Era, kind: str
) -> None:
    client = Broken(kind)
    async with connected(transport, era, client) as (harness, agent):
        first = await agent.client.call_tool("create_call", placing())
        second = await agent.call("create_call", **placing(timeout=20))
        assert harness.changes == []
        token = structured(first)["confirmation"]["token"]
        done = await agent.call("create_call", **placing(), confirmation_token=token)
    assert structured(first)["outcome"] == second["outcome"] == "confirmation_required"
    assert client.asked == 1
    for told in (structured(first), second):
        assert WHY in told["warnings"][-1]
    assert text_of(first).count(WHY) == 1
    assert done["outcome"] == "done"
    assert len(harness.changes) == 1


async def test_an_error_of_the_client_is_quoted_on_one_line(harness: Harness) -> None:
    async with harness.connect("legacy", Broken("another error")) as agent:
        told = await agent.call("create_call", **placing())
    assert 'it answered "no window is open; accept: true"' in told["warnings"][-1]


@pytest.mark.requirement("04")
async def test_an_older_client_whose_user_does_not_answer_in_time_gets_a_token() -> None:
    asked: list[str] = []

    async def hesitate(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del context
        asked.append(params.message)
        await anyio.sleep_forever()
        return YES

    async with (
        open_harness(calls_mcp_confirm_ttl=0.05) as harness,
        harness.connect("legacy", hesitate) as agent,
    ):
        told = [await agent.call("create_call", **placing()) for _ in range(2)]
    assert [each["outcome"] for each in told] == ["confirmation_required"] * 2
    assert f"{WHY} (it did not answer in time)" in told[0]["warnings"][-1]
    assert len(asked) == 1
    assert harness.changes == []


@RAW
@pytest.mark.parametrize("era", ERAS)
async def test_the_operator_decides_if_a_client_must_ask_but_cannot(
    era: Era, tmp_path: Path
) -> None:
    client = Broken("an unknown action")
    terms: dict[str, Any] = {"calls_mcp_operator_wait": "0"}
    async with scene(tmp_path, 'place = "require_human"', **terms) as here:
        async with here.harness.connect(era, client) as agent:
            told = [await agent.call("create_call", **placing()) for _ in range(2)]
            assert [each["outcome"] for each in told] == ["awaiting_operator"] * 2
            assert client.asked == 1
            await here.decide(approve=True)
            assert (await agent.call("create_call", **placing()))["outcome"] == "done"
        assert [each["decision"] for each in here.recorded[:3]] == ["asked", "expired", "asked"]
    assert len(here.harness.changes) == 1


# The 2026-07-28 protocol, by hand

UNANSWERED: dict[str, object] = {
    "no answers": None,
    "no object": "error",
    "an empty object": {},
    "another key": {"other": {"action": "accept", "content": {"approve": True}}},
    "null": {"confirm": None},
    "an error": {"confirm": {"error": {"code": -32601, "message": "Method not found"}}},
    "an error's fields": {"confirm": {"code": -32601, "message": "Method not found"}},
    "another kind of answer": {"confirm": {"roots": []}},
    "a nested answer": {"confirm": {"action": "accept", "content": {"approve": {"a": True}}}},
}


@pytest.mark.requirement("02", "04")
@pytest.mark.parametrize("kind", UNANSWERED)
async def test_a_retry_without_a_valid_answer_gets_a_token_and_withdraws_the_question(
    kind: str,
) -> None:
    given = UNANSWERED[kind]
    answers: dict[str, Any] = {} if given is None else {"inputResponses": given}
    async with open_service() as service:
        question = await service.tool("create_call", placing())
        state = question["requestState"]
        retried = await service.tool("create_call", placing(), requestState=state, **answers)
        told = retried["structuredContent"]
        assert told["outcome"] == "confirmation_required"
        assert told["warnings"][-1].startswith(f"{WHY} (it sent no valid answer)")
        late: dict[str, Any] = {"requestState": state, "inputResponses": CONFIRMED}
        answered = await service.tool("create_call", placing(), **late)
        assert answered["structuredContent"]["outcome"] == "expired"
        assert service.harness.changes == []
        token = {"confirmation_token": told["confirmation"]["token"]}
        done = await service.tool("create_call", {**placing(), **token})
        assert done["structuredContent"]["outcome"] == "done"
        assert len(service.harness.changes) == 1


@pytest.mark.requirement("02")
@pytest.mark.parametrize("reply", [YES, NO], ids=["yes", "no"])
async def test_once_answered_a_retry_without_an_answer_repeats_the_outcome(
    harness: Harness, reply: ElicitResult
) -> None:
    async with interview(harness) as one:
        outcomes = [(await one.answer(each))["outcome"] for each in (reply, None, None)]
    assert outcomes == ["done" if reply is YES else "declined"] * 3
    assert len(harness.changes) == (reply is YES)


@pytest.mark.parametrize("has_answered", [True, False])
async def test_a_client_that_never_answered_is_not_asked_again_after_a_question_expires(
    harness: Harness,
    has_answered: bool,  # noqa: FBT001
) -> None:
    async with interview(harness) as one:
        if has_answered:
            await one.answer(NO)
        await asked(Agent(one.client), one.tool)
        await asked(Agent(one.client), one.tool)
        harness.clock.advance(harness.runtime.settings.guard.confirm_ttl)
        ask: Any = one.client.session.call_tool
        result = await ask(*one.tool, allow_input_required=True)
    assert isinstance(result, InputRequiredResult) is has_answered
    if not has_answered:
        assert structured(result)["outcome"] == "confirmation_required"


async def test_a_client_that_answers_late_is_asked_again(harness: Harness) -> None:
    async with interview(harness) as one:
        harness.clock.advance(harness.runtime.settings.guard.confirm_ttl)
        agent = Agent(one.client)
        told = await agent.call(*one.tool[:1], **one.tool[1])
        assert told["outcome"] == "confirmation_required"
        assert (await one.answer(YES))["outcome"] == "expired"
        await asked(agent, one.tool)


async def test_another_client_of_the_server_is_still_asked(harness: Harness) -> None:
    async with interview(harness, "one") as one:
        await one.answer(None)
        user = User(approve)
        async with harness.connect(user=user, name="two") as agent:
            await agent.call("create_call", **placing())
    assert len(user.asked) == 1


@pytest.mark.requirement("06")
async def test_a_client_that_only_opens_urls_gets_a_token() -> None:
    raw = Client2026({"elicitation": {"url": {}}})
    async with open_service() as service:
        told = await service.tool_from(raw, "create_call", placing())
    assert told["structuredContent"]["outcome"] == "confirmation_required"


@pytest.mark.requirement("15")
async def test_an_empty_elicitation_capability_gets_a_form_and_results_are_not_cached() -> None:
    async with open_service() as service:
        call = partial(service.tool_from, Client2026({"elicitation": {}}))
        question = await call("create_call", placing())
        assert question["resultType"] == "input_required"
        assert "Call +1 500" in question["inputRequests"]["confirm"]["params"]["message"]
        state = question["requestState"]
        done = await call("create_call", placing(), requestState=state, inputResponses=CONFIRMED)
        read = await call("list_calls", {})
    assert done["structuredContent"]["outcome"] == "done"
    for result in (question, done, read):
        assert result.get("cacheScope", "private") == "private"
        assert result.get("ttlMs", 0) == 0


@pytest.mark.parametrize("kind", UNANSWERED)
async def test_a_client_that_cannot_open_the_approval_page_is_asked_once(
    kind: str, tmp_path: Path
) -> None:
    terms: dict[str, Any] = {
        "calls_mcp_operator_wait": "0",
        "calls_mcp_console_url": "https://calls.example.com",
    }
    given = UNANSWERED[kind]
    answers: dict[str, Any] = {} if given is None else {"inputResponses": given}
    async with scene(tmp_path, **terms) as here, serve_harness(here.harness) as service:
        opens = partial(service.tool_from, Client2026({"elicitation": {"url": {}}}))
        page = await opens("create_call", placing())
        state = page["requestState"]
        retried = await opens("create_call", placing(), requestState=state, **answers)
        again = await opens("create_call", placing(timeout=20))
    for told in (retried, again):
        assert told["structuredContent"]["outcome"] == "awaiting_operator"
    assert here.harness.changes == []
