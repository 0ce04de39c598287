"""Clients that open URLs are sent to the approval page, in both protocol versions."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio.lowlevel
import pytest
from mcp import Client
from mcp.client import ClientRequestContext
from mcp_types import (
    ElicitCompleteNotification,
    ElicitRequestParams,
    ElicitRequestURLParams,
    ElicitResult,
    InputResponses,
)

from tests.guard.test_operator_decisions import scene
from tests.harness import ERAS, Agent, Era, placing, structured

pytestmark = pytest.mark.anyio


CONSOLE = "https://calls.example.com"


@dataclass
class Visitor:
    """A user whose client opens URLs, and what happens when the page is open."""

    action: Literal["accept", "decline", "cancel"] = "accept"
    then: Callable[[], Awaitable[object]] = anyio.lowlevel.checkpoint
    sent_to: list[ElicitRequestURLParams] = field(default_factory=list[ElicitRequestURLParams])

    async def __call__(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult:
        del context
        assert isinstance(params, ElicitRequestURLParams)
        self.sent_to.append(params)
        await self.then()
        return ElicitResult(action=self.action)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("is_approved", [True, False])
async def test_a_client_that_opens_urls_is_sent_to_the_approval_page_and_waits_for_the_decision(
    era: Era,
    is_approved: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    visitor, completed = Visitor(), list[str]()

    async def listen(message: object) -> None:
        if isinstance(message, ElicitCompleteNotification):
            completed.append(message.params.elicitation_id)

    async with scene(tmp_path, calls_mcp_console_url=CONSOLE) as here:
        visitor.then = partial(here.decide, approve=is_approved, reason="because")
        client = Client(
            here.harness.server,
            mode=era,
            elicitation_callback=visitor,
            message_handler=listen,
            cache=None,
        )
        async with client:
            outcome = await Agent(client).call("create_call", **placing())
        assert outcome["outcome"] == ("done" if is_approved else "declined")
        assert len(here.harness.changes) == is_approved
        (page,) = visitor.sent_to
        (request,) = await here.approvals.requests()
        assert page.url == f"{CONSOLE}/approvals/{request.identifier}"
        assert "+1" not in page.message
        if era == "legacy":
            assert page.elicitation_id == request.identifier
            assert completed == [request.identifier]
        else:
            assert (page.elicitation_id, completed) == (None, [])


@pytest.mark.parametrize("era", ERAS)
async def test_opening_the_page_approves_nothing(era: Era, tmp_path: Path) -> None:
    visitor = Visitor()
    terms: dict[str, Any] = {"calls_mcp_console_url": CONSOLE, "calls_mcp_operator_wait": "0"}
    async with scene(tmp_path, **terms) as here, here.harness.connect(era, visitor) as agent:
        asked = await agent.call("create_call", **placing())
        assert asked["outcome"] == "awaiting_operator"
        assert visitor.sent_to[0].url in asked["reason"]
        assert asked["reason"] in await agent.read("create_call", **placing())
        assert len(visitor.sent_to) == 2
        assert here.harness.changes == []
        await here.decide(approve=True)
        assert (await agent.call("create_call", **placing()))["outcome"] == "done"


@pytest.mark.parametrize("era", ERAS)
async def test_declining_to_open_the_approval_page_withdraws_the_request(
    era: Era, tmp_path: Path
) -> None:
    visitor = Visitor("decline")
    async with scene(tmp_path, calls_mcp_console_url=CONSOLE) as here:
        async with here.harness.connect(era, visitor) as agent:
            outcome = await agent.call("create_call", **placing())
        assert outcome["outcome"] == "declined"
        assert list(await here.approvals.pending()) == []
        (request,) = await here.approvals.requests()
        assert request.decision
        told = (request.decision.word, request.decision.by)
        assert told == ("withdrawn", "the user")
        assert here.recorded[-1]["decision"] == "declined"
        assert here.recorded[-1]["confirmed_by"] == "elicitation"
    assert here.harness.changes == []


async def test_a_change_that_the_user_declines_is_not_made_even_if_approved(tmp_path: Path) -> None:
    visitor = Visitor("decline")
    async with scene(tmp_path, calls_mcp_console_url=CONSOLE) as here:
        visitor.then = partial(here.decide, approve=True)
        async with here.harness.connect(user=visitor) as agent:
            assert (await agent.call("create_call", **placing()))["outcome"] == "declined"
            again = await agent.call("create_call", **placing())
        assert again["outcome"] == "declined"
    assert here.harness.changes == []
    assert len(visitor.sent_to) == 2


@pytest.mark.parametrize("era", ERAS)
async def test_declining_a_request_that_was_closed_meanwhile_is_recorded_with_its_id(
    era: Era, tmp_path: Path
) -> None:
    visitor = Visitor("decline")
    async with scene(tmp_path, calls_mcp_console_url=CONSOLE) as here:

        async def close() -> None:
            await here.decide(approve=False)
            async with here.harness.connect() as other:
                assert (await other.call("create_call", **placing()))["outcome"] == "declined"

        visitor.then = close
        async with here.harness.connect(era, visitor) as agent:
            outcome = await agent.call("create_call", **placing())
        assert outcome["outcome"] == "expired"
        (request,) = await here.approvals.requests()
        assert here.recorded[-1]["approval_id"] == request.identifier
    assert here.harness.changes == []


async def test_dismissing_the_approval_page_leaves_the_request_pending(tmp_path: Path) -> None:
    visitor = Visitor("cancel")
    terms: dict[str, Any] = {"calls_mcp_console_url": CONSOLE, "calls_mcp_operator_wait": "0"}
    async with scene(tmp_path, **terms) as here, here.harness.connect("legacy", visitor) as agent:
        assert (await agent.call("create_call", **placing()))["outcome"] == "awaiting_operator"
        await here.decide(approve=True)
        assert (await agent.call("create_call", **placing()))["outcome"] == "done"


async def test_an_unsolicited_result_of_the_approval_page_does_nothing(tmp_path: Path) -> None:
    yes = ElicitResult(action="accept", content={"approve": True})
    answers: list[InputResponses] = [
        {"open": ElicitResult(action="accept")},
        {"open": yes},
        {"confirm": yes},
    ]
    async with scene(tmp_path, calls_mcp_operator_wait="0") as here:
        for answer in answers:
            async with here.harness.connect() as agent:
                result = await agent.client.session.call_tool(
                    "create_call", placing(), input_responses=answer
                )
            assert structured(result)["outcome"] == "awaiting_operator"
    assert here.harness.changes == []


async def test_without_a_console_url_no_page_is_opened(tmp_path: Path) -> None:
    visitor = Visitor()
    async with scene(tmp_path) as here, here.harness.connect(user=visitor) as agent:
        asked = await agent.call("create_call", **placing())
    assert asked["outcome"] == "awaiting_operator"
    assert visitor.sent_to == []
