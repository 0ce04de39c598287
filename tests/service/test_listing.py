"""Lists: every call once, in results of limited size."""

import hashlib
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal
from urllib.parse import parse_qs, urlencode

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client

from calls_mcp.emulator import past_calls
from tests.benchmarks import tokens
from tests.harness import ACCOUNT, Agent, Harness, open_harness, structured, text_of
from tests.upstream import (
    PATH,
    SID,
    Exchange,
    Step,
    Tool,
    Upstream,
    access,
    answer,
    call,
    error_of,
    page,
    scripted,
    serving,
)

pytestmark = pytest.mark.anyio

OTHER_ACCOUNT = "AC" + "2" * 32
OURS = "+15005550100"
LONGEST_LINE = 190  # characters, some 60 tokens


@asynccontextmanager
async def filled(
    calls: int, calls_mcp_result_tokens: int = 40_000
) -> AsyncGenerator[tuple[Harness, Agent]]:
    """A server on an account with a history, and a client."""
    async with (
        open_harness(calls_mcp_result_tokens=calls_mcp_result_tokens) as harness,
        harness.connect() as agent,
    ):
        harness.emulator.calls.add(*past_calls(3, calls, harness.clock()))
        yield harness, agent


def sids(harness: Harness) -> list[str]:
    """Return all calls, newest first."""
    return [call.sid for call in harness.emulator.calls.all()]


def listed(outcome: dict[str, Any]) -> list[str]:
    return [call["sid"] for call in outcome["calls"]]


def page_sizes(harness: Harness) -> list[int]:
    return [int(parse_qs(entry.query)["PageSize"][0]) for entry in harness.reads]


async def walk(agent: Agent, **arguments: object) -> list[dict[str, Any]]:
    """Return all results of a list, each requested only with a cursor."""
    outcomes = [await agent.call("list_calls", **arguments)]
    while "next_cursor" in outcomes[-1]:
        assert len(outcomes) < 200
        outcomes.append(await agent.call("list_calls", cursor=outcomes[-1]["next_cursor"]))
    return outcomes


def all_listed(outcomes: list[dict[str, Any]]) -> list[str]:
    return [sid for outcome in outcomes for sid in listed(outcome)]


# How many


async def test_without_a_limit_the_newest_fifty_calls_come_in_one_request() -> None:
    async with filled(120) as (harness, agent):
        outcome = await agent.call("list_calls")
        assert listed(outcome) == sids(harness)[:50]
    assert outcome["count"] == 50
    assert page_sizes(harness) == [50]
    assert "next_cursor" in outcome


@pytest.mark.parametrize("page_size", [None, 1000, 50, 7])
async def test_pages_are_followed_up_to_the_limit_and_never_beyond(page_size: int | None) -> None:
    size = {} if page_size is None else {"page_size": page_size}
    async with filled(120) as (harness, agent):
        for limit in (1, 2, 49, 50, 51, 120, 121, 10_000):
            before = len(harness.reads)
            outcome = await agent.call("list_calls", limit=limit, **size)
            assert listed(outcome) == sids(harness)[:limit]
            assert outcome["count"] == min(limit, 120)
            assert ("next_cursor" in outcome) == (limit < 120)
            assert "warnings" not in outcome
            sent = page_sizes(harness)[before:]
            assert max(sent) <= (page_size or 1000)
            assert len(sent) == -(-min(limit, 120) // sent[0])


@pytest.mark.requirement("36")
@pytest.mark.parametrize("limit", [0, -1, 10_001, 1.5, "50", True])
async def test_a_limit_out_of_bounds_is_refused_and_nothing_is_sent(limit: object) -> None:
    async with filled(3) as (harness, agent):
        outcome = await agent.call("list_calls", limit=limit)
    assert outcome["error"]["kind"] == "invalid_arguments"
    (fault,) = outcome["error"]["faults"]
    assert fault["path"] == "/limit"
    assert "from 1 to 10000" in fault["expected"]
    assert harness.reads == []


@pytest.mark.requirement("36")
@pytest.mark.parametrize("page_size", [0, 1001])
async def test_a_page_size_out_of_bounds_is_refused_and_nothing_is_sent(page_size: int) -> None:
    async with filled(3) as (harness, agent):
        outcome = await agent.call("list_calls", page_size=page_size)
    assert [fault["path"] for fault in outcome["error"]["faults"]] == ["/page_size"]
    assert harness.reads == []


async def test_an_empty_list_is_a_result() -> None:
    async with filled(0) as (_, agent):
        outcome = await agent.call("list_calls")
        account_sid = outcome.pop("account_sid")
        assert outcome == {"outcome": "done", "calls": [], "count": 0}
        assert account_sid == ACCOUNT
        assert await agent.read("list_calls") == "0 calls"


# Walking


@pytest.mark.parametrize(
    ("limit", "page_size"), [(1, 1), (7, None), (10, 50), (10, 3), (3, 10), (50, 1000), (37, 37)]
)
async def test_walking_visits_every_call_once_and_in_order(
    limit: int, page_size: int | None
) -> None:
    size = {} if page_size is None else {"page_size": page_size}
    async with filled(37) as (harness, agent):
        outcomes = await walk(agent, limit=limit, **size)
        assert all_listed(outcomes) == sids(harness)
    assert all(outcome["count"] <= limit for outcome in outcomes)
    assert len(outcomes) == -(-37 // limit)
    assert all("next_cursor" in outcome for outcome in outcomes[:-1])


FILTERS: list[dict[str, object]] = [
    {"to": OURS},
    {"from": OURS},
    {"status": "completed"},
    {"status": "no-answer", "from": OURS},
    {"start_time": "2023-11-13"},
    {"start_time_after": "2023-11-11", "start_time_before": "2023-11-13T12:00:00Z"},
    {"end_time": "2023-11-12"},
    {"end_time_after": "2023-11-12T00:00:00Z", "end_time_before": "2023-11-14"},
    {"to": OURS, "status": "completed", "start_time_after": "2023-11-10"},
    {"account_sid": ACCOUNT},
]


@pytest.mark.parametrize("filters", FILTERS, ids=" ".join)
@pytest.mark.parametrize("page_size", [5, 100])
async def test_walking_with_filters_visits_the_calls_that_match(
    filters: dict[str, object], page_size: int
) -> None:
    async with filled(100) as (harness, agent):
        outcomes = await walk(agent, limit=9, page_size=page_size, **filters)
        whole = await agent.call("list_calls", limit=100, page_size=1000, **filters)
        everything = sids(harness)
    visited = all_listed(outcomes)
    assert visited == listed(whole)
    assert len({*visited}) == len(visited)
    assert 9 < len(visited) <= 100
    assert (len(visited) == 100) == (filters == {"account_sid": ACCOUNT})
    assert visited == sorted(visited, key=everything.index)
    walked = [{k: v for k, v in parse_qs(r.query).items() if k[0] != "P"} for r in harness.reads]
    assert all(query == walked[0] for query in walked)


@pytest.mark.parametrize(("limit", "page_size"), [(6, 6), (6, 40), (6, 4)])
async def test_new_calls_between_two_pages_cause_no_gap_and_no_repetition(
    limit: int, page_size: int
) -> None:
    async with filled(30) as (harness, agent):
        before = sids(harness)
        visited: list[str] = []
        arguments: dict[str, object] = {"limit": limit, "page_size": page_size}
        while arguments:
            outcome = await agent.call("list_calls", **arguments)
            visited += listed(outcome)
            assert len(visited) <= len(before)
            arguments = {"cursor": outcome["next_cursor"]} if "next_cursor" in outcome else {}
            harness.emulator.calls.add(*past_calls(len(visited), 5, harness.clock()))
    assert visited == before


async def test_many_new_calls_between_two_pages_do_not_hide_a_call() -> None:
    async with filled(30) as (harness, agent):
        before = sids(harness)
        first = await agent.call("list_calls", limit=6, page_size=10)
        harness.emulator.calls.add(*past_calls(8, 25, harness.clock()))
        cursor = first["next_cursor"]
        rest = await agent.call("list_calls", cursor=cursor, limit=1000)
    assert {*before} <= {*listed(first), *listed(rest)}


async def test_a_call_deleted_between_two_pages_does_not_hide_another() -> None:
    async with filled(30) as (harness, agent):
        before = sids(harness)
        first = await agent.call("list_calls", limit=6, page_size=10)
        harness.emulator.calls.delete(before[5])
        rest = await agent.call("list_calls", cursor=first["next_cursor"], limit=1000)
    assert {*before} == {*listed(first), *listed(rest)}


# How large


@pytest.mark.parametrize(("budget", "calls"), [(2000, 60), (4000, 100), (20_000, 400)])
async def test_a_result_stays_within_its_size_with_a_warning_and_a_cursor(
    budget: int, calls: int
) -> None:
    async with filled(calls, budget) as (harness, agent):
        outcomes = await walk(agent, limit=calls)
        assert all_listed(outcomes) == sids(harness)
        sent = sum(page_sizes(harness))
    assert len(outcomes) > 1
    for outcome in outcomes[:-1]:
        (warning,) = outcome["warnings"]
        assert warning.startswith(f"only {outcome['count']} of the {calls} requested calls fit")
        assert outcome["count"] > 1
    assert "warnings" not in outcomes[-1]
    # Reads are limited, too: pages that would not fit are not read.
    assert sent <= calls + len(outcomes) * 50


@pytest.mark.parametrize("size", [{}, {"page_size": 1000}])
async def test_no_more_is_read_than_fits_in_a_result(size: dict[str, int]) -> None:
    async with filled(400) as (harness, agent):
        outcome = await agent.call("list_calls", limit=400, **size)
    assert len(harness.reads) == 1
    assert outcome["count"] == page_sizes(harness)[0]


DIFFICULT = {
    "random SIP names": "sip:" + "".join(chr(33 + i * i * 41 % 94) for i in range(508)),
    "long words": "sip:" + "a" * 300 + "@" + "z" * 300,
    "quotation marks": '"\\' * 300,
    "emoji": "\U0001f9d1\U0001f3fd\u200d\U0001f680" * 150,
    "Arabic": "\u0645\u0631\u062d\u0628\u0627 " * 100,
    "Chinese": "\u9f98\u9750\u9f49" * 200,
    "cuneiform": "\U00012000\U00012002" * 300,
    "mathematical letters": "\U0001d518\U0001d52b" * 300,
    "accents": "e\u0301\u0323" * 200,
    "numbers": "+1500555" + "0123456" * 80,
    "short numbers": "+15005550006",
}


@pytest.mark.requirement("36", "39")
@pytest.mark.skipif(find_spec("rs_bpe") is None, reason="no rs-bpe: pip install rs-bpe")
@pytest.mark.parametrize("text", DIFFICULT.values(), ids=DIFFICULT)
@pytest.mark.parametrize(("budget", "is_filtered"), [(4000, True), (20_000, False)])
async def test_a_list_of_difficult_texts_has_at_most_the_tokens_that_clients_accept(
    text: str,
    budget: int,
    is_filtered: bool,  # noqa: FBT001
) -> None:
    texts = dict.fromkeys(("from", "to", "caller_name", "forwarded_from"), text)
    sids = ("phone_number_sid", "parent_call_sid", "group_sid", "trunk_sid")
    calls = [
        call(
            sid=_digest(number),
            duration="1234",
            queue_time="4321",
            price="-0.01300",
            price_unit="USD",
            answered_by="machine_end_silence",
            **texts,
            **dict.fromkeys(sids, _digest(-number)),
        )
        for number in range(120)
    ]
    following = f"{PATH}?PageSize=1000&Page=1&PageToken=PA{SID}"
    address = "sip:" + "".join(chr(65 + i * i * 41 % 26) for i in range(500))
    filters = {"to": address, "from": address} if is_filtered else {}
    limit = {"calls_mcp_result_tokens": budget}
    async with scripted(answer(200, page(*calls, following=following)), **limit) as (_, agent):
        result = await agent.client.call_tool("list_calls", {"limit": 1000, **filters})
    sent = tokens.count(result.model_dump_json(by_alias=True, exclude_none=True))
    told = structured(result)
    assert sent <= budget or told["count"] == 1
    assert told["next_cursor"] in text_of(result)
    (warning,) = (each for each in told["warnings"] if "fit in one result" in each)
    assert f"only {told['count']} of the 1000" in warning
    assert warning in text_of(result)


@pytest.mark.requirement("36", "39")
@pytest.mark.skipif(find_spec("rs_bpe") is None, reason="no rs-bpe: pip install rs-bpe")
@pytest.mark.parametrize("length", [128, 512])
async def test_a_list_with_long_links_has_at_most_the_tokens_that_clients_accept(
    length: int,
) -> None:
    names = ("PageSize", "Page", "PageToken")
    place = {n: hashlib.shake_256(n.encode()).hexdigest(length // 2) for n in names}
    following = f"{PATH}?{urlencode(place)}"
    calls = [call(sid=_digest(number)) for number in range(120)]
    pages = (page(*calls[:3], following=following), page(*calls[3:], following=following))
    async with scripted(*(answer(200, each) for each in pages), calls_mcp_result_tokens=2000) as (
        _,
        agent,
    ):
        result = await agent.client.call_tool("list_calls", {"limit": 1000})
    assert tokens.count(result.model_dump_json(by_alias=True, exclude_none=True)) <= 2000


@pytest.mark.skipif(find_spec("rs_bpe") is None, reason="no rs-bpe: pip install rs-bpe")
async def test_a_list_of_usual_calls_uses_most_of_the_tokens() -> None:
    async with filled(400, 20_000) as (_, agent):
        result = await agent.client.call_tool("list_calls", {"limit": 400})
    sent = tokens.count(result.model_dump_json(by_alias=True, exclude_none=True))
    assert 15_000 < sent <= 20_000


def _digest(number: int) -> str:
    return "CA" + hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


async def test_a_single_call_larger_than_the_limit_is_returned() -> None:
    texts = ("from", "to", "caller_name", "forwarded_from", "status", "direction", "answered_by")
    huge = call(**dict.fromkeys(texts, "東" * 300))
    script = answer(200, page(huge, {**huge, "sid": "CA" + "2" * 32}))
    async with scripted(script, calls_mcp_result_tokens=2000) as (_, agent):
        first = await agent.call("list_calls")
        second = await agent.call("list_calls", cursor=first["next_cursor"])
    assert listed(first) == [SID]
    assert listed(second) == ["CA" + "2" * 32]
    assert "next_cursor" not in second


async def test_a_model_reads_one_short_line_for_each_call() -> None:
    async with filled(400) as (harness, agent):
        result = await agent.client.call_tool("list_calls", {"limit": 100})
        first, *lines = text_of(result).splitlines()
        assert len(lines) == 101
        assert first == "100 calls, newest first"
        for sid, line in zip(sids(harness)[:100], lines[:-1], strict=True):
            assert line.startswith(f"{sid} ")
            assert len(line) <= LONGEST_LINE
    cursor = result.structured_content["next_cursor"]
    assert (
        lines[-1] == f"There are more calls. To get them, call list_calls with only cursor={cursor}"
    )


# Progress


async def test_progress_is_reported_on_request() -> None:
    told: list[tuple[float, float | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        assert message
        told.append((progress, total))

    async with filled(90) as (_, agent):
        await agent.client.call_tool(
            "list_calls", {"limit": 60, "page_size": 20}, progress_callback=hear
        )
    assert told == [(20, 60), (40, 60), (60, 60)]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_progress_is_not_reported_without_a_request(mode: Literal["auto", "legacy"]) -> None:
    heard: list[object] = []

    async def hear(message: object) -> None:
        heard.append(message)

    async with (
        filled(90) as (harness, _),
        Client(harness.server, mode=mode, message_handler=hear, cache=None) as client,
    ):
        await client.call_tool("list_calls", {"limit": 60, "page_size": 20})
    assert len(harness.reads) == 3
    assert heard == []


# Lists in the wrong order

ODD: list[object] = [None, "CA1", 7, [], {}, {"sid": None}, {"sid": "CA1"}, [call()]]


@pytest.mark.requirement("13")
async def test_unreadable_entries_are_counted_and_the_rest_is_listed() -> None:
    async with scripted(answer(200, page(call(), *ODD))) as (_, agent):
        outcome = await agent.call("list_calls")
    assert listed(outcome) == [SID]
    assert outcome["count"] == 1
    assert outcome["warnings"] == [f"{len(ODD)} entries could not be read"]


@pytest.mark.requirement("13")
async def test_a_response_with_more_calls_than_a_page_can_have_is_unusable() -> None:
    async with scripted(answer(200, page(*[call()] * 1001))) as (upstream, agent):
        error = await error_of(agent, ("list_calls", {}))
    assert error["kind"] == "unavailable"
    assert "the API's response lists more than 1000 calls" in error["message"]
    assert len(upstream.requests) == 1


async def test_one_unreadable_entry_has_a_warning_in_the_singular() -> None:
    async with scripted(answer(200, page(call(), None))) as (_, agent):
        outcome = await agent.call("list_calls")
    assert outcome["warnings"] == ["1 entry could not be read"]


async def test_a_list_has_the_account_sid_once() -> None:
    async with scripted(answer(200, page(call(), call(sid="CA" + "2" * 32)))) as (_, agent):
        result = await agent.client.call_tool("list_calls", {})
    assert structured(result)["account_sid"] == ACCOUNT
    assert result.model_dump_json().count(ACCOUNT) == 1


@pytest.mark.requirement("13")
async def test_calls_of_another_account_are_left_out() -> None:
    foreign = call(sid="CA" + "2" * 32, account_sid=OTHER_ACCOUNT)
    async with scripted(answer(200, page(call(), foreign))) as (_, agent):
        result = await agent.client.call_tool("list_calls", {})
    assert OTHER_ACCOUNT not in result.model_dump_json()
    assert foreign["sid"] not in result.model_dump_json()


ELSEWHERE = [
    "{other}/2010-04-01/Accounts/" + OTHER_ACCOUNT + "/Calls.json?PageSize=50&Page=1&PageToken=PA1",
    "//{host}/2010-04-01/Calls.json?Page=1&PageToken=PA1",
    "https://evil.example/x?Page=1&PageToken=PA1",
    "/2010-04-01/Accounts/" + OTHER_ACCOUNT + "/Messages.json?PageSize=50&Page=1&PageToken=PA1",
    "../../../etc/passwd?Page=1&PageToken=PA1",
    PATH + "?Page=1&PageToken=PA1&To=%2B15005550207&Status=completed&Evil=1",
    PATH + "?Page=1&PageToken=PA1%26To=x#fragment",
]


@pytest.mark.requirement("36")
@pytest.mark.parametrize("following", ELSEWHERE)
async def test_a_next_page_on_another_resource_is_never_read(following: str) -> None:
    second = call(sid="CA" + "2" * 32)
    async with Upstream(answer(200, page())) as other:
        host = other.base_url.removeprefix("http://")
        uri = following.replace("{other}", other.base_url).replace("{host}", host)
        script: list[Step] = [answer(200, page(call(), following=uri)), answer(200, page(second))]
        async with Upstream(*script) as upstream, serving(access(upstream.base_url)) as agent:
            outcome = await agent.call("list_calls", status="busy")
        assert other.connections == 0
    assert listed(outcome) == [SID, second["sid"]]
    assert [request.target.partition("?")[0] for request in upstream.requests] == [PATH] * 2
    first, last = (request.query for request in upstream.requests)
    assert first == {"Status": "busy", "PageSize": "50"}
    assert last.pop("PageToken").startswith("PA1")
    assert last.pop("Page") == "1"
    assert last in ({"Status": "busy", "PageSize": "50"}, {"Status": "busy"})


NO_PAGES = [
    PATH + "?Page=1&PageToken=PA1%0D%0AX-Evil:%201",
    "?Page=\ud800",
    PATH + "?Page=1&PageToken=" + "f" * 129,
    PATH + "?Page=1" + "&" * 16_384,
    {"uri": PATH},
    7,
]


@pytest.mark.requirement("13")
@pytest.mark.parametrize("following", NO_PAGES)
async def test_an_invalid_next_page_ends_the_list_with_a_warning(following: object) -> None:
    async with scripted(answer(200, page(call(), following=following))) as (upstream, agent):
        outcome = await agent.call("list_calls", limit=1)
    assert listed(outcome) == [SID]
    assert "next_cursor" not in outcome
    assert outcome["warnings"] == [
        "there may be more calls: the API's link to the next page is invalid"
    ]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "following",
    [
        pytest.param("http://[::1", id="no URI"),
        pytest.param("\u2100//x", id="a URI of odd characters"),
        pytest.param("?" + "a=b&" * 1000, id="a long query"),
        pytest.param(PATH, id="without a place"),
        pytest.param(7, id="a number"),
        pytest.param(["x"], id="a list"),
        pytest.param({}, id="an object"),
        pytest.param(True, id="a boolean"),
        pytest.param("", id="empty"),
    ],
)
async def test_a_next_page_without_a_position_ends_the_list(following: object) -> None:
    async with scripted(answer(200, page(call(), following=following))) as (upstream, agent):
        outcome = await agent.call("list_calls", limit=5)
    assert listed(outcome) == [SID]
    assert len(upstream.requests) == 1


async def test_a_page_that_fails_fails_the_invocation() -> None:
    following = f"{PATH}?PageSize=1&Page=1&PageToken=PA{SID}"
    script = [answer(200, page(call(), following=following)), answer(400, {"code": 20001})]
    tool: Tool = ("list_calls", {"limit": 2, "page_size": 1})
    async with scripted(*script) as (upstream, agent):
        error = await error_of(agent, tool)
    assert error["kind"] == "rejected"
    assert len(upstream.requests) == 2


# Pages that repeat

Graph = Mapping[str, tuple[str, str | None]]
"""For each page token, a letter for each call of the page, and the token of the next page."""


class Pages:
    """A step that answers with the page of the graph that is asked for."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    async def __call__(self, exchange: Exchange) -> None:
        letters, following = self.graph[exchange.request.query.get("PageToken", "")]
        uri = None if following is None else f"{PATH}?Page=1&PageToken={following}"
        await answer(200, page(*map(lettered, letters), following=uri))(exchange)


class Endless(dict[str, tuple[str, str | None]]):
    """Pages with the same calls, each with a link to one more."""

    def __init__(self, letters: str) -> None:
        self._letters = letters

    def __missing__(self, token: str) -> tuple[str, str]:
        return self._letters, str(int(token or "0") + 1)


def lettered(letter: str) -> dict[str, Any]:
    return call(sid=f"CA{ord(letter):032x}")


def letters_of(outcome: dict[str, Any]) -> str:
    return "".join(chr(int(sid[-2:], 16)) for sid in listed(outcome))


ONCE = "the API listed some calls more than once; each is shown once"
REPEATING = "there may be more calls: the API repeated a page"
REPEATED: dict[str, tuple[Graph, str, list[str], int]] = {
    "itself": ({"": ("ab", "1"), "1": ("cd", "1")}, "abcd", [REPEATING], 2),
    "the first": ({"": ("ab", "0"), "0": ("ab", "0")}, "ab", [ONCE, REPEATING], 2),
    "an earlier": (
        {"": ("ab", "1"), "1": ("cd", "2"), "2": ("ef", "1")},
        *("abcdef", [REPEATING], 3),
    ),
    "overlapping": ({"": ("ab", "1"), "1": ("bc", "2"), "2": ("cd", None)}, "abcd", [ONCE], 3),
    "twice on a page": ({"": ("aba", None)}, "ab", [ONCE], 1),
    "nothing new, then new": (
        {"": ("ab", "1"), "1": ("ab", "2"), "2": ("", "3"), "3": ("c", None)},
        *("abc", [ONCE], 4),
    ),
    "under ever new links": (Endless("ab"), "ab", [ONCE, REPEATING], 22),
    "empty": (Endless(""), "", [REPEATING], 21),
}
"""Pages, the calls of one result, its warnings, and how many pages are read for it."""


@pytest.mark.requirement("36")
@pytest.mark.parametrize("repeated", REPEATED)
async def test_a_result_shows_each_call_once_and_ends_where_pages_repeat(repeated: str) -> None:
    graph, letters, warnings, read = REPEATED[repeated]
    async with scripted(Pages(graph)) as (upstream, agent):
        outcome = await agent.call("list_calls", limit=30)
    assert letters_of(outcome) == letters
    assert outcome["warnings"] == warnings
    assert "next_cursor" not in outcome
    assert len(upstream.requests) == read


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    tokens = ["", *map(str, range(draw(st.integers(0, 5))))]
    letters = st.text("abcdefgh", max_size=4)
    following = st.none() | st.sampled_from(tokens[1:] or [None])
    return {token: (draw(letters), draw(following)) for token in tokens}


def reachable(graph: Graph) -> set[str]:
    visited: dict[str, str] = {}
    token: str | None = ""
    while token is not None and token not in visited:
        visited[token], token = graph[token]
    return {*"".join(visited.values())}


@pytest.fixture
def listing() -> Generator[Callable[[Graph], dict[str, Any]]]:
    """A function that lists all calls of some pages."""
    pages = Pages({})
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(scripted(pages)) as (_, agent),
    ):

        def first(graph: Graph) -> dict[str, Any]:
            pages.graph = graph
            return portal.call(partial(agent.call, "list_calls", limit=30))

        yield first


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=graphs())
def test_a_list_of_any_pages_has_each_call_once_and_comes_to_an_end(
    listing: Callable[[Graph], dict[str, Any]], graph: Graph
) -> None:
    outcome = listing(graph)
    assert sorted(letters_of(outcome)) == sorted(reachable(graph))
    assert "next_cursor" not in outcome
