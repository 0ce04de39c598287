"""Cursors: their position and filters, and that only this server can issue them."""

import json
import string
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client

from calls_mcp.emulator import past_calls
from calls_mcp.errors import InvalidArguments
from calls_mcp.guard.signing import Signer
from calls_mcp.server.handlers import build_server
from calls_mcp.service.listing import Bounds, Cursors, ListPosition
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Access, load_settings
from calls_mcp.tools.catalog import load_operations
from calls_mcp.tools.validation import Arguments, validate
from tests.harness import ACCOUNT, Agent, Harness, access_to
from tests.upstream import TESTER

pytestmark = pytest.mark.anyio

LIST = load_operations()["list_calls"]
BUDGET = 64_000
CURSORS = Cursors(Signer(["k" * 32]), ACCOUNT)
OTHER_ACCOUNT = "AC" + "2" * 32
OURS = "+15005550100"
SAFE = string.ascii_letters + string.digits + "-_."


@pytest.fixture
def filled(harness: Harness) -> Harness:
    harness.emulator.calls.add(*past_calls(7, 60, harness.clock()))
    return harness


@asynccontextmanager
async def another(access: Access, **settings: object) -> AsyncGenerator[Agent]:
    """A client of another server."""
    async with (
        Runtime(load_settings(settings), access) as runtime,
        Client(build_server(runtime), cache=None, client_info=TESTER) as client,
    ):
        yield Agent(client)


def sids(harness: Harness) -> list[str]:
    """Return all calls, newest first."""
    return [call.sid for call in harness.emulator.calls.all()]


def listed(outcome: dict[str, Any]) -> list[str]:
    return [call["sid"] for call in outcome["calls"]]


def faults(outcome: dict[str, Any]) -> list[str]:
    assert outcome["outcome"] == "error"
    assert outcome["error"]["kind"] == "invalid_arguments"
    return [fault["path"] for fault in outcome["error"]["faults"]]


def issued(**arguments: object) -> str:
    """Return a cursor of a list with these filters."""
    listed, _, _ = resumed(**arguments)
    position = ListPosition((("PageSize", "50"), ("PageToken", "PACA1")), "CA1")
    return CURSORS.issue(listed, position, "tester")


def resumed(**arguments: object) -> tuple[Arguments, Bounds, ListPosition]:
    given = validate(LIST, json.loads(json.dumps(arguments)))
    return CURSORS.resume(given, "tester", BUDGET)


# Content


async def test_a_cursor_alone_continues_with_the_same_filters(filled: Harness) -> None:
    async with filled.connect() as agent:
        first = await agent.call("list_calls", status="completed", to=OURS, limit=3)
        second = await agent.call("list_calls", cursor=first["next_cursor"])
        both = await agent.call("list_calls", status="completed", to=OURS, limit=6)
    assert second["count"] == 3
    assert listed(first) + listed(second) == listed(both)


async def test_filters_may_be_repeated_as_they_were(filled: Harness) -> None:
    async with filled.connect() as agent:
        first = await agent.call("list_calls", status="completed", limit=3)
        alone = await agent.call("list_calls", cursor=first["next_cursor"])
        repeated = await agent.call(
            "list_calls", cursor=first["next_cursor"], status="completed", limit=3
        )
    assert repeated == alone


async def test_a_cursor_carries_the_limit_and_lets_it_change(filled: Harness) -> None:
    async with filled.connect() as agent:
        first = await agent.call("list_calls", limit=5)
        more = await agent.call("list_calls", cursor=first["next_cursor"], limit=20)
        rest = await agent.call("list_calls", cursor=more["next_cursor"])
    assert [first["count"], more["count"], rest["count"]] == [5, 20, 20]
    assert listed(first) + listed(more) + listed(rest) == sids(filled)[:45]


async def test_a_larger_limit_with_a_cursor_needs_only_a_few_requests(filled: Harness) -> None:
    async with filled.connect() as agent:
        first = await agent.call("list_calls", limit=1)
        before = len(filled.reads)
        rest = await agent.call("list_calls", cursor=first["next_cursor"], limit=1000)
    assert rest["count"] == 59
    assert len(filled.reads) - before <= 3


async def test_a_page_size_given_with_a_cursor_is_used_or_said_to_be_ignored(
    filled: Harness,
) -> None:
    async with filled.connect() as agent:
        first = await agent.call("list_calls", limit=5)
        second = await agent.call("list_calls", cursor=first["next_cursor"], page_size=2)
    told = " ".join(second.get("warnings", []))
    assert "PageSize=2" in filled.reads[-1].query or "page_size" in told


async def test_a_cursor_can_be_used_twice(filled: Harness) -> None:
    async with filled.connect() as agent:
        first = await agent.call("list_calls", limit=5)
        again = [await agent.call("list_calls", cursor=first["next_cursor"]) for _ in range(2)]
    assert again[0] == again[1]


async def test_a_cursor_is_short_and_has_only_characters_that_survive_repeating(
    filled: Harness,
) -> None:
    async with filled.connect() as agent:
        first = await agent.call("list_calls", limit=5)
    assert set(first["next_cursor"]) <= {*SAFE}
    assert len(first["next_cursor"]) < 250


def test_the_longest_filters_there_are_make_a_cursor_that_is_accepted() -> None:
    filters = {
        "to": "sip:" + "t" * 250 + "@" + "~!" * 128,
        "from": "sip:" + "f" * 250 + "@" + "".join(chr(33 + i * 41 % 94) for i in range(256)),
        "parent_call_sid": "CA" + "0123456789abcdef" * 2,
        "status": "in-progress",
        "start_time_before": "2026-01-31T09:00:00.123456Z",
        "start_time_after": "2026-01-31T09:00:00.123456Z",
        "end_time_before": "2026-01-31T09:00:00.123456Z",
        "end_time_after": "2026-01-31T09:00:00.123456Z",
        "account_sid": OTHER_ACCOUNT,
    }
    assert resumed(cursor=issued(**filters))[0].values == filters


# Binding to principals and accounts


async def test_a_cursor_outlives_the_server_that_issued_it(filled: Harness) -> None:
    async with filled.connect() as agent:
        first = await agent.call("list_calls", limit=5)
    async with another(access_to(filled.emulator.base_url)) as agent:
        second = await agent.call("list_calls", cursor=first["next_cursor"])
    assert listed(second) == sids(filled)[5:10]


@pytest.mark.requirement("36")
@pytest.mark.parametrize(
    "stranger",
    [{"password": "another token"}, {"username": "SK" + "3" * 32}],
    ids=["another token", "an API key"],
)
async def test_a_cursor_of_other_credentials_is_refused_before_anything_is_sent(
    filled: Harness, stranger: dict[str, str]
) -> None:
    async with filled.connect() as agent:
        first = await agent.call("list_calls", limit=5)
    before = len(filled.reads)
    async with another(replace(access_to(filled.emulator.base_url), **stranger)) as agent:
        outcome = await agent.call("list_calls", cursor=first["next_cursor"])
    assert faults(outcome) == ["/cursor"]
    assert len(filled.reads) == before


@pytest.mark.parametrize("cursor", ["nonsense", " "])
async def test_a_wrong_argument_does_not_hide_a_wrong_cursor(filled: Harness, cursor: str) -> None:
    async with filled.connect() as agent:
        outcome = await agent.call("list_calls", limit=0, cursor=cursor)
    assert sorted(faults(outcome)) == ["/cursor", "/limit"]


@pytest.mark.requirement("03", "36")
async def test_a_cursor_of_another_principal_is_refused(filled: Harness) -> None:
    async with filled.connect(name="ann") as agent:
        first = await agent.call("list_calls", limit=5)
    before = len(filled.reads)
    async with filled.connect(name="bob") as agent:
        outcome = await agent.call("list_calls", cursor=first["next_cursor"])
    assert faults(outcome) == ["/cursor"]
    assert len(filled.reads) == before


async def test_a_cursor_of_another_account_is_refused_even_if_the_keys_are_shared(
    filled: Harness,
) -> None:
    shared = {"calls_mcp_secret_keys": "k" * 32}
    async with another(access_to(filled.emulator.base_url), **shared) as agent:
        first = await agent.call("list_calls", limit=5)
    before = len(filled.reads)
    stranger = replace(access_to(filled.emulator.base_url), account_sid=OTHER_ACCOUNT)
    async with another(stranger, **shared) as agent:
        outcome = await agent.call("list_calls", cursor=first["next_cursor"])
    assert faults(outcome) == ["/cursor"]
    assert len(filled.reads) == before


SPOILT: dict[str, Callable[[str], str]] = {
    "cut": lambda cursor: cursor[:-1],
    "lengthened": lambda cursor: cursor + "A",
    "in other cases": lambda cursor: cursor.swapcase(),
    "its signature": lambda cursor: cursor.rpartition(".")[2],
    "without its signature": lambda cursor: cursor.rpartition(".")[0],
    "padded": lambda cursor: cursor + "=",
    "in quotes": lambda cursor: f'"{cursor}"',
    "a page number": lambda _: "2",
    "a page token of the API": lambda _: "PACA" + "1" * 32,
    "a URI of the API": lambda _: "/2010-04-01/Accounts/x/Calls.json?Page=1",
}


@pytest.mark.requirement("36")
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
async def test_a_cursor_that_was_altered_or_made_up_is_refused_before_anything_is_sent(
    filled: Harness, spoil: Callable[[str], str]
) -> None:
    async with filled.connect() as agent:
        first = await agent.call("list_calls", limit=5)
        before = len(filled.reads)
        outcome = await agent.call("list_calls", cursor=spoil(first["next_cursor"]))
    assert faults(outcome) == ["/cursor"]
    (fault,) = outcome["error"]["faults"]
    assert "next_cursor" in fault["expected"]
    assert len(fault["received"]) < 60
    assert len(filled.reads) == before


# Security


@pytest.mark.requirement("36")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("to", "+15005550206"),
        ("from", OURS),
        ("status", "failed"),
        ("start_time_after", "2023-11-13"),
        ("parent_call_sid", "CA" + "1" * 32),
        ("account_sid", OTHER_ACCOUNT),
    ],
)
async def test_another_filter_beside_a_cursor_is_a_fault_that_names_it(
    filled: Harness, name: str, value: str
) -> None:
    async with filled.connect() as agent:
        first = await agent.call("list_calls", status="completed", to=OURS, limit=2)
        before = len(filled.reads)
        outcome = await agent.call("list_calls", cursor=first["next_cursor"], **{name: value})
    assert faults(outcome) == [f"/{name}"]
    assert value in outcome["error"]["faults"][0]["received"]
    assert len(filled.reads) == before


async def test_all_other_filters_are_named_at_once(filled: Harness) -> None:
    async with filled.connect() as agent:
        first = await agent.call("list_calls", limit=2)
        outcome = await agent.call(
            "list_calls", cursor=first["next_cursor"], status="busy", account_sid=OTHER_ACCOUNT
        )
    assert {*faults(outcome)} == {"/status", "/account_sid"}


async def test_the_servers_account_can_be_passed_with_a_cursor(
    filled: Harness,
) -> None:
    async with filled.connect() as agent:
        first = await agent.call("list_calls", limit=2)
        outcome = await agent.call("list_calls", cursor=first["next_cursor"], account_sid=ACCOUNT)
    assert outcome["outcome"] == "done"
    assert listed(outcome) == sids(filled)[2:4]


def test_a_cursor_stays_in_the_account_it_was_issued_for() -> None:
    cursor = issued(account_sid=OTHER_ACCOUNT)
    assert resumed(cursor=cursor)[0].values["account_sid"] == OTHER_ACCOUNT
    with pytest.raises(InvalidArguments) as invalid:
        resumed(cursor=cursor, account_sid=ACCOUNT)
    assert [fault.path for fault in invalid.value.faults] == ["/account_sid"]


@given(
    sids=st.lists(st.text(st.sampled_from("0123456789abcdef"), min_size=32, max_size=32)),
    limit=st.integers(1, 10_000),
)
def test_a_cursor_returns_what_it_was_issued_for(sids: list[str], limit: int) -> None:
    place = ListPosition(tuple(("PageToken", sid) for sid in sids), "CA" + "".join(sids[:1]))
    first, _, _ = resumed(to=OURS, limit=limit)
    listed, bounds, start = resumed(cursor=CURSORS.issue(first, place, "tester"))
    assert (start, bounds.calls) == (place, limit)
    assert listed.values == {"to": OURS, "limit": limit}
