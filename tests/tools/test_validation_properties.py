"""Any arguments, drawn from the reference, the published schemas and JSON.

`PROPERTY_EXAMPLES` is the number of examples for each property, over all tools.
"""

import os
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import cast

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp_types import CallToolResult

from calls_mcp.emulator import LoggedRequest
from calls_mcp.tools.catalog import Json, load_operations
from tests.generate import definitions
from tests.harness import TWIML, Agent, Harness, open_harness, placing, structured
from tests.strategies import (
    BASES,
    SID,
    TOOLS,
    Sending,
    any_arguments,
    broken_arguments,
    expected_sending,
    is_accepted,
    published_arguments,
    right_arguments,
    satisfies,
    sending,
    unpublished_fault,
)
from tests.tools.faults import checked, faults

EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "100"))

# A busy machine generates data slowly, and all examples of a tool run on one server.
THOROUGH = settings(
    max_examples=max(1, EXAMPLES // len(TOOLS)),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@dataclass(frozen=True)
class Bench:
    """A running server without confirmations, for use in a synchronous function."""

    portal: BlockingPortal
    harness: Harness
    agent: Agent

    def call(
        self, tool: str, arguments: Mapping[str, object]
    ) -> tuple[CallToolResult, list[LoggedRequest]]:
        """The result of a call, and the requests it made."""
        before = len(self.harness.emulator.requests)
        result = self.portal.call(self._call, tool, {**arguments})
        return result, [*self.harness.emulator.requests[before:]]

    async def _call(self, tool: str, arguments: dict[str, object]) -> CallToolResult:
        return await self.agent.client.call_tool(tool, arguments)


@pytest.fixture
def running() -> Generator[Bench]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_harness(calls_mcp_confirm="none")) as harness,
        portal.wrap_async_context_manager(harness.connect()) as agent,
    ):
        yield Bench(portal, harness, agent)


def as_documented(tool: str, arguments: Mapping[str, object], sent: Sending) -> bool:
    """Whether exactly this should be sent; the server may choose a smaller page size."""
    if tool == "list_calls":
        (size,) = sent.query.pop("PageSize")
        bounds = (1000, arguments.get("page_size", 1000), arguments.get("limit", 50))
        assert 1 <= int(size) <= min(int(cast("float", bound)) for bound in bounds)
    rest = {name: value for name, value in arguments.items() if name != "page_size"}
    return sent == expected_sending(tool, rest)


@pytest.mark.parametrize("empty", [None, "", []])
@pytest.mark.anyio
async def test_an_empty_optional_argument_is_the_same_as_none(
    harness: Harness, empty: object
) -> None:
    given = placing()
    names = load_operations()["create_call"].parameters.keys() - given.keys()
    rest = dict.fromkeys(names - {"confirmation_token"}, empty)
    async with harness.connect() as agent:
        plain = await agent.call("create_call", **placing())
        filled = await agent.call("create_call", **placing(), **rest, confirmation_token=empty)
        assert filled["confirmation"]["preview"] == plain["confirmation"]["preview"]
        token = plain["confirmation"]["token"]
        done = await agent.call("create_call", **placing(), **rest, confirmation_token=token)
    assert done["outcome"] == "done"


@pytest.mark.parametrize("empty", [None, "", []])
@pytest.mark.parametrize("tool", ["create_call", "update_call"])
def test_an_empty_argument_does_not_satisfy_a_rule_that_needs_one(tool: str, empty: object) -> None:
    (rule,) = (r for r in load_operations()[tool].rules if r.rule == "needs_one_of")
    bare = {k: v for k, v in BASES[tool].items() if k not in rule.parameters}
    told = faults(tool, {**bare, **dict.fromkeys(rule.parameters, empty)})
    assert [*told] == [rule.parameters[0]]


def test_an_empty_argument_excludes_no_other() -> None:
    checked("update_call", {"sid": SID, "url": "", "twiml": TWIML})
    told = faults("create_call", placing(Url="", status_callback_event=[]))
    assert [*told] == ["Url"]


each_tool = pytest.mark.parametrize("tool", TOOLS)
in_time = pytest.mark.timeout(60 + EXAMPLES // 5)


@in_time
@each_tool
@THOROUGH
@given(data=st.data())
def test_all_documented_arguments_reach_the_api_as_documented(
    running: Bench, tool: str, data: st.DataObject
) -> None:
    arguments = data.draw(right_arguments(tool))
    _, requests = running.call(tool, arguments)
    (entry,) = requests
    assert as_documented(tool, arguments, sending(entry))


@in_time
@each_tool
@THOROUGH
@given(data=st.data())
def test_arguments_that_satisfy_the_schema_are_sent_or_have_an_unpublished_fault(
    running: Bench, tool: str, data: st.DataObject
) -> None:
    schema = definitions()[tool]["inputSchema"]
    arguments = data.draw(published_arguments(schema) | right_arguments(tool))
    assert satisfies(schema, arguments)
    result, requests = running.call(tool, arguments)
    error = structured(result).get("error", {"kind": ""})
    if error["kind"] in ("invalid_arguments", "invalid_confirmation", "policy_denied"):
        assert requests == []
    if error["kind"] == "invalid_arguments":
        names = [fault["path"].removeprefix("/") for fault in error["faults"]]
        assert all(unpublished_fault(tool, arguments, name) for name in names)
    elif error["kind"] == "invalid_confirmation":
        assert "confirmation_token" in arguments
    elif error["kind"] == "policy_denied":  # whatever the policy, some things are refused
        assert re.search(r"twiml\.well_formed|urls\.always|emergency", error["message"])
    else:
        (entry,) = requests
        assert as_documented(tool, arguments, sending(entry))


@pytest.mark.requirement("07", "35")
@in_time
@each_tool
@THOROUGH
@given(data=st.data())
def test_arguments_that_break_the_schema_never_reach_the_api(
    running: Bench, tool: str, data: st.DataObject
) -> None:
    name, arguments = data.draw(broken_arguments(definitions()[tool]))
    result, requests = running.call(tool, arguments)
    assert requests == []
    error = structured(result)["error"]
    assert error["kind"] == "invalid_arguments"
    if name in definitions()[tool]["inputSchema"]["properties"]:
        assert f"/{name}" in [fault["path"] for fault in error["faults"]]
    else:
        assert "a known argument" in str(error["faults"])


@in_time
@each_tool
@THOROUGH
@given(data=st.data())
def test_any_json_arguments_return_a_short_result_that_fits_the_output_schema(
    running: Bench, tool: str, data: st.DataObject
) -> None:
    taken = definitions()[tool]["inputSchema"]
    given_back = definitions()[tool]["outputSchema"]
    arguments = data.draw(any_arguments(taken))
    result, requests = running.call(tool, arguments)
    content = structured(result)
    assert satisfies(given_back, content)
    assert content.keys() <= cast("dict[str, Json]", given_back["properties"]).keys()
    assert result.is_error is ("error" in content)
    assert len(result.model_dump_json()) < 16_000
    assert len(requests) <= is_accepted(taken, arguments)
