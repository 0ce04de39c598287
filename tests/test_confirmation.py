"""Who is asked, in which era, and what an answer is worth."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import anyio
import mcp_types as types
import pytest
from mcp import Client, MCPError
from mcp.client import ClientRequestContext
from mcp_types import ElicitResult

from tests.rig import (
    ERAS,
    TALKS_FOR_AN_HOUR,
    Reply,
    Rig,
    User,
    approve,
    decline,
    dismiss,
    open_rig,
    placing,
    structured,
)

pytestmark = pytest.mark.anyio

Era = Literal["auto", "legacy"]


def accepting(**content: str | float | bool | None) -> Reply:
    return lambda _message: ElicitResult(action="accept", content={**content})


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_can_ask_its_user_does_and_the_call_is_placed_once(
    rig: Rig, era: Era
) -> None:
    user = User(approve)
    async with rig.connect(era, user) as agent:
        outcome = await agent.call("create_call", **placing())
    assert outcome["outcome"] == "done"
    assert len(user.asked) == 1
    assert TALKS_FOR_AN_HOUR in user.asked[0]
    assert len(rig.changes) == 1


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param(decline, "said no", id="decline"),
        pytest.param(dismiss, "dismissed", id="cancel"),
        pytest.param(accepting(), "not a plain yes", id="nothing filled in"),
        pytest.param(accepting(approve=False), "not a plain yes", id="false"),
        pytest.param(accepting(approve="true"), "not a plain yes", id="the text true"),
        pytest.param(accepting(approve="yes"), "not a plain yes", id="the text yes"),
        pytest.param(accepting(approve=1), "not a plain yes", id="the number 1"),
        pytest.param(accepting(approve=None), "not a plain yes", id="null"),
        pytest.param(accepting(other=True), "not a plain yes", id="another field"),
    ],
)
async def test_anything_but_a_literal_true_does_nothing_and_says_so(
    rig: Rig, era: Era, reply: Reply, reason: str
) -> None:
    async with rig.connect(era, User(reply)) as agent:
        outcome = await agent.call("create_call", **placing())
    assert outcome["outcome"] == "declined"
    assert reason in outcome["reason"]
    assert rig.changes == []


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_cannot_ask_gets_a_preview_and_a_token_that_works(
    rig: Rig, era: Era
) -> None:
    async with rig.connect(era) as agent:
        asked = await agent.call("create_call", **placing())
        assert asked["outcome"] == "confirmation_required"
        assert asked["confirmation"]["action"] == "place"
        assert rig.changes == []
        token = asked["confirmation"]["token"]
        done = await agent.call("create_call", **placing(confirmation_token=token))
    assert done["outcome"] == "done"
    assert len(rig.changes) == 1


@pytest.mark.parametrize("era", ERAS)
async def test_the_question_is_the_preview_and_asks_for_nothing_but_a_yes(
    rig: Rig, era: Era
) -> None:
    forms: list[types.ElicitRequestFormParams] = []

    async def read(
        context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> ElicitResult:
        del context
        assert isinstance(params, types.ElicitRequestFormParams)
        forms.append(params)
        return dismiss("")

    async with Client(rig.server, mode=era, elicitation_callback=read) as client:
        await client.call_tool("create_call", placing(sip_auth_password="canary"))
    (form,) = forms
    assert "canary" not in form.message
    assert "Place a call to" in form.message
    assert [*form.requested_schema["properties"]] == ["approve"]
    assert form.requested_schema["properties"]["approve"]["type"] == "boolean"


async def test_an_older_client_whose_user_cannot_be_reached_does_nothing(rig: Rig) -> None:
    async def fail(
        context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> types.ErrorData:
        del context, params
        return types.ErrorData(code=-1, message="no window is open")

    async with Client(rig.server, mode="legacy", elicitation_callback=fail) as client:
        outcome = structured(await client.call_tool("create_call", placing()))
    assert outcome["outcome"] == "declined"
    assert "no window is open" in outcome["reason"]
    assert rig.changes == []


async def test_an_older_client_whose_user_takes_too_long_does_nothing() -> None:
    async def wait(
        context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> ElicitResult:
        del context, params
        await anyio.sleep_forever()
        return approve("")

    async with (
        open_rig(calls_mcp_confirm_ttl=0.05) as rig,
        Client(rig.server, mode="legacy", elicitation_callback=wait) as client,
    ):
        outcome = structured(await client.call_tool("create_call", placing()))
    assert outcome["outcome"] == "declined"
    assert "did not answer" in outcome["reason"]
    assert rig.changes == []


@dataclass
class Interview:
    """A 2026-07-28 client that answers by hand."""

    client: Client
    state: str

    async def answer(
        self, reply: ElicitResult | None, state: str | None = None, **changed: object
    ) -> types.CallToolResult:
        result = await self.client.session.call_tool(
            "create_call",
            placing(**changed),
            input_responses={"confirm": reply} if reply else None,
            request_state=state or self.state,
            allow_input_required=True,
        )
        assert isinstance(result, types.CallToolResult)
        return result


@asynccontextmanager
async def interview(rig: Rig, name: str = "tester") -> AsyncGenerator[Interview]:
    async with rig.connect(user=User(), name=name) as agent:
        asked = await agent.client.session.call_tool(
            "create_call", placing(), allow_input_required=True
        )
        assert isinstance(asked, types.InputRequiredResult)
        assert asked.request_state is not None
        yield Interview(agent.client, asked.request_state)


YES = ElicitResult(action="accept", content={"approve": True})
NO = ElicitResult(action="decline")


async def test_a_replayed_answer_reports_the_first_outcome_and_places_no_second_call(
    rig: Rig,
) -> None:
    async with interview(rig) as one:
        first = structured(await one.answer(YES))
        second = structured(await one.answer(YES))
    assert first["outcome"] == "done"
    assert second["call"] == first["call"]
    assert "used before" in second["warnings"][0]
    assert len(rig.changes) == 1


async def test_a_no_can_not_be_turned_into_a_yes_with_the_same_state(rig: Rig) -> None:
    async with interview(rig) as one:
        await one.answer(NO)
        second = structured(await one.answer(YES))
    assert second["outcome"] == "declined"
    assert rig.changes == []


async def test_a_state_brought_back_without_an_answer_is_spent(rig: Rig) -> None:
    async with interview(rig) as one:
        first = structured(await one.answer(None))
        second = structured(await one.answer(YES))
    assert first["outcome"] == second["outcome"] == "declined"
    assert rig.changes == []


async def test_an_answer_without_the_state_we_issued_counts_for_nothing(rig: Rig) -> None:
    async with rig.connect(user=User()) as agent:
        result = await agent.client.session.call_tool(
            "create_call", placing(), input_responses={"confirm": YES}, allow_input_required=True
        )
    assert isinstance(result, types.InputRequiredResult)
    assert rig.changes == []


async def test_an_answer_for_other_arguments_is_refused(rig: Rig) -> None:
    async with interview(rig) as one:
        with pytest.raises(MCPError, match="requestState"):
            await one.answer(YES, to="+15005550206")
    assert rig.changes == []


async def test_a_state_that_was_tampered_with_is_refused(rig: Rig) -> None:
    async with interview(rig) as one:
        middle = len(one.state) // 2
        swapped = "A" if one.state[middle] != "A" else "B"
        with pytest.raises(MCPError, match="requestState"):
            await one.answer(YES, one.state[:middle] + swapped + one.state[middle + 1 :])
    assert rig.changes == []


async def test_another_client_can_not_use_the_state(rig: Rig) -> None:
    async with interview(rig, "one") as one, interview(rig, "two") as two:
        with pytest.raises(MCPError, match="requestState"):
            await two.answer(YES, one.state)
    assert rig.changes == []


async def test_an_answer_that_comes_too_late_is_told_so(rig: Rig) -> None:
    async with interview(rig) as one:
        rig.clock.advance(301)
        outcome = structured(await one.answer(YES))
    assert outcome["outcome"] == "expired"
    assert "not used in time" in outcome["reason"]
    assert rig.changes == []
