"""The two-step token: bound, single use, short-lived, unforgeable."""

import re
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.harness import Harness, open_harness, placing

pytestmark = pytest.mark.anyio


async def asked_for(harness: Harness, **arguments: object) -> str:
    async with harness.connect() as agent:
        asked = await agent.call("create_call", **placing(**arguments))
        token: str = asked["confirmation"]["token"]
        return token


@pytest.mark.requirement("02")
async def test_a_hundred_simultaneous_uses_place_one_call_and_all_report_it(
    harness: Harness,
) -> None:
    token = await asked_for(harness)
    outcomes: list[dict[str, Any]] = []

    async with harness.connect() as agent:

        async def use() -> None:
            again = placing(confirmation_token=token)
            outcomes.append(await agent.call("create_call", **again))

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(use)
    assert len(outcomes) == 100
    assert len({outcome["call"]["sid"] for outcome in outcomes}) == 1
    assert sum("nothing was sent now" in str(each.get("warnings")) for each in outcomes) == 99
    assert len(harness.changes) == 1


async def test_a_token_of_a_failed_change_cannot_be_used_again(harness: Harness) -> None:
    arguments = placing(to="+15005550003")  # a country that is not enabled
    async with harness.connect() as agent:
        asked = await agent.call("create_call", **arguments)
        token = asked["confirmation"]["token"]
        first = await agent.call("create_call", **arguments, confirmation_token=token)
        second = await agent.call("create_call", **arguments, confirmation_token=token)
    assert first["error"]["code"] == second["error"]["code"] == 21215
    assert len(harness.changes) == 1


async def test_the_order_of_the_arguments_does_not_matter(harness: Harness) -> None:
    token = await asked_for(harness)
    backwards = dict(reversed(placing(confirmation_token=token).items()))
    async with harness.connect() as agent:
        outcome = await agent.call("create_call", **backwards)
    assert outcome["outcome"] == "done"


@pytest.mark.requirement("03")
async def test_a_token_is_valid_only_for_its_client(harness: Harness) -> None:
    token = await asked_for(harness)
    async with harness.connect(name="somebody else") as agent:
        outcome = await agent.call("create_call", **placing(confirmation_token=token))
    assert "issued to another principal" in outcome["error"]["message"]
    assert harness.changes == []


@pytest.mark.requirement("03", "06")
async def test_the_lifetime_of_a_token_is_a_setting() -> None:
    async with open_harness(calls_mcp_confirm_ttl=10) as harness, harness.connect() as agent:
        asked = await agent.call("create_call", **placing())
        assert asked["confirmation"]["expires_at"] == "2023-11-14T22:13:30Z"
        harness.clock.advance(10)
        again = placing(confirmation_token=asked["confirmation"]["token"])
        outcomes = [await agent.call("create_call", **again) for _ in range(2)]
        assert harness.changes == []
    assert [outcome["outcome"] for outcome in outcomes] == ["expired"] * 2
    assert "has expired" in outcomes[0]["reason"]


FORGERIES: dict[str, Callable[[str], str]] = {
    "invented": lambda _token: "yes",
    "altered": lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
    "with a letter more": lambda token: "x" + token,
    "without signature": lambda token: token.partition(".")[0],
}


@pytest.mark.requirement("06")
@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forged_token_is_refused(harness: Harness, forgery: str) -> None:
    forged = FORGERIES[forgery](await asked_for(harness))
    async with harness.connect() as agent:
        outcome = await agent.call("create_call", **placing(confirmation_token=forged))
    assert outcome["error"]["kind"] == "invalid_confirmation"
    assert harness.changes == []


@pytest.mark.requirement("03")
async def test_a_token_of_another_process_is_refused() -> None:
    async with open_harness() as one, open_harness() as two:
        token = await asked_for(one)
        async with two.connect() as agent:
            outcome = await agent.call("create_call", **placing(confirmation_token=token))
        assert outcome["outcome"] == "expired"
        assert "can't tell whether it was used" in outcome["reason"]
        assert "list_calls" in outcome["reason"]
        assert two.changes == []


@pytest.mark.requirement("03")
async def test_tokens_of_configured_keys_are_not_accepted_by_other_keys() -> None:
    async with (
        open_harness(calls_mcp_secret_keys="a" * 32) as one,
        open_harness(calls_mcp_secret_keys="b" * 32) as two,
    ):
        token = await asked_for(one)
        async with two.connect() as agent:
            outcome = await agent.call("create_call", **placing(confirmation_token=token))
    assert outcome["error"]["kind"] == "invalid_confirmation"


@pytest.mark.requirement("06")
async def test_tokens_are_short_and_unique(harness: Harness) -> None:
    tokens = {await asked_for(harness) for _ in range(20)}
    assert len(tokens) == 20
    assert all(re.fullmatch(r"[\w-]{12}\.[\w-]{20}", token) for token in tokens)
