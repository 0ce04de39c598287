"""Reading ahead: what a program that walks a list finds ready, and what it costs everybody else."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import anyio
import pytest
from mcp import Client

from calls_mcp.accounts import Accounts
from calls_mcp.emulator import ManualClock
from calls_mcp.runtime import Runtime
from calls_mcp.server import build_server
from calls_mcp.settings import load_settings
from calls_mcp.wire import Request
from tests.rig import ACCOUNT, PERMISSIVE, Agent, placing
from tests.test_listing import listed
from tests.upstream import (
    PATH,
    SID,
    Exchange,
    Step,
    Upstream,
    access,
    answer,
    call,
    drop,
    hang,
    page,
    scripted,
)

pytestmark = pytest.mark.anyio

A_PAUSE = 1  # second
PAGES = 6


def entry(number: int) -> dict[str, Any]:
    return call(sid=f"CA{number:032}")


@dataclass
class Book:
    """An API with pages of one call each, which notes which were read.

    `odd` are answers to some, each given once. A change is answered by `change`, when it
    `may_change`, and whoever looks at a single call in turn by `looks`.
    """

    odd: dict[int, Step] = field(default_factory=dict[int, Step])
    change: Step = field(default=answer(201, call()))
    looks: list[Step] = field(default_factory=list[Step])
    read: list[int] = field(default_factory=list[int])
    is_changing: asyncio.Event = field(default_factory=asyncio.Event)
    may_change: asyncio.Event = field(default_factory=asyncio.Event)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.request.method == "POST":
            self.is_changing.set()
            await self.may_change.wait()
            return await self.change(exchange)
        if not exchange.request.target.startswith(PATH):
            return await self.looks.pop(0)(exchange)
        number = int(exchange.request.query.get("Page", 0))
        self.read.append(number)
        self._news.set()
        following = f"{PATH}?PageToken=PA{number + 1}&PageSize=1&Page={number + 1}"
        usual = page(entry(number), following=following if number + 1 < PAGES else None)
        return await self.odd.pop(number, answer(200, usual))(exchange)

    async def is_reading(self, number: int) -> None:
        """Wait until a page is asked for."""
        with anyio.fail_after(30):
            while number not in self.read:
                self._news.clear()
                await self._news.wait()


@dataclass
class Walker:
    """A program that walks the list page by page."""

    agent: Agent
    clock: ManualClock
    outcome: dict[str, Any] = field(default_factory=dict[str, Any])

    async def go_on(self, pages: int = 1) -> list[str]:
        """Ask for so many pages, one after the other; the calls of the last."""
        for _ in range(pages):
            place = {"cursor": self.outcome["next_cursor"]} if self.outcome else {"limit": 1}
            self.outcome = await self.agent.call("list_calls", **place)
        return listed(self.outcome)


@asynccontextmanager
async def walking(book: Book) -> AsyncGenerator[Walker]:
    """A walker on `book`, whose clock stands still."""
    clock = ManualClock(0)
    settings = load_settings({"calls_mcp_confirm": "none", "calls_mcp_policy": PERMISSIVE})
    async with (
        Upstream(book) as upstream,
        Runtime(settings, access(upstream.base_url), monotonic=clock) as runtime,
        Client(build_server(runtime), cache=None) as client,
    ):
        yield Walker(Agent(client), clock)


async def test_whoever_goes_on_without_a_pause_finds_the_next_page_being_read() -> None:
    book = Book()
    async with walking(book) as walker:
        await walker.go_on(2)
        await book.is_reading(2)
        assert book.read == [0, 1, 2]


async def test_each_page_of_a_walk_is_read_once_and_told_in_its_turn() -> None:
    book = Book()
    async with walking(book) as walker:
        assert [await walker.go_on() for _ in range(PAGES)] == [
            [entry(number)["sid"]] for number in range(PAGES)
        ]
        assert "next_cursor" not in walker.outcome
    assert book.read == [*range(PAGES)]


async def test_a_page_that_is_still_being_read_is_waited_for() -> None:
    released = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await released.wait()
        await answer(200, page(entry(2)))(exchange)

    book = Book(odd={2: slow})
    async with walking(book) as walker, anyio.create_task_group() as tasks:
        await walker.go_on(2)
        tasks.start_soon(walker.go_on)
        await book.is_reading(2)
        released.set()
    assert listed(walker.outcome) == [entry(2)["sid"]]
    assert book.read == [0, 1, 2]


async def test_for_whoever_wants_the_first_page_nothing_is_read_ahead() -> None:
    book = Book(looks=[answer(200, call())])
    async with walking(book) as walker:
        await walker.go_on()
        await walker.agent.call("fetch_call", sid=SID)
        assert book.read == [0]


async def test_for_a_model_that_thinks_between_two_pages_nothing_is_read_ahead() -> None:
    book = Book(looks=[answer(200, call())])
    async with walking(book) as walker:
        for _ in range(3):
            await walker.go_on()
            walker.clock.advance(A_PAUSE)
        await walker.agent.call("fetch_call", sid=SID)
        assert book.read == [0, 1, 2]


async def test_what_was_read_a_second_ago_is_not_told_as_what_is_so_now() -> None:
    book = Book()
    async with walking(book) as walker:
        await walker.go_on(2)
        await book.is_reading(2)
        walker.clock.advance(A_PAUSE)
        assert await walker.go_on() == [entry(2)["sid"]]
        assert book.read == [0, 1, 2, 2]


async def test_what_was_read_before_a_change_is_not_told_after_it() -> None:
    book = Book()
    book.may_change.set()
    async with walking(book) as walker:
        await walker.go_on(2)
        await book.is_reading(2)
        placed = await walker.agent.call("create_call", **placing())
        assert placed["outcome"] == "done"
        before = len(book.read)
        assert await walker.go_on() == [entry(2)["sid"]]
        assert book.read[before:] == [2]


async def test_what_was_read_during_a_change_is_not_told_after_it() -> None:
    book = Book()
    async with walking(book) as walker:
        await walker.go_on()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(walker.agent.call, "create_call", **placing()))
            await book.is_changing.wait()
            await walker.go_on(2)
            await book.is_reading(3)
            book.may_change.set()
        before = len(book.read)
        assert await walker.go_on() == [entry(3)["sid"]]
        assert book.read[before:] == [3]


async def test_what_was_read_before_a_lost_change_was_found_out_is_not_told_after_it() -> None:
    is_looking, may_see = asyncio.Event(), asyncio.Event()

    async def look(exchange: Exchange) -> None:
        is_looking.set()
        await may_see.wait()
        await answer(200, call(status="completed"))(exchange)

    book = Book(change=drop, looks=[answer(200, call(status="in-progress")), look])
    book.may_change.set()
    async with walking(book) as walker:
        ended = dict[str, Any]()

        async def hang_up() -> None:
            ended.update(await walker.agent.call("update_call", sid=SID, status="completed"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hang_up)
            await is_looking.wait()
            await walker.go_on(2)
            await book.is_reading(2)
            may_see.set()
        assert ended["recovered"] is True
        before = len(book.read)
        assert await walker.go_on() == [entry(2)["sid"]]
        assert book.read[before:] == [2]


async def test_a_change_with_another_key_counts_for_those_who_walk_with_this_one() -> None:
    book = Book()
    book.may_change.set()
    async with Upstream(book) as upstream:
        accounts = Accounts(ManualClock(0))
        ours = access(upstream.base_url)
        walks, changes = accounts.client(ours), accounts.client(replace(ours, username="SK1"))
        first, changing = (
            Request("read", "GET", PATH, ACCOUNT),
            Request("place", "POST", PATH, ACCOUNT),
        )
        await walks.expect(first, read_now=True)
        await book.is_reading(0)
        await changes.send(changing)
        assert not walks.expects(first)
        await accounts.keep_only(())


@pytest.mark.parametrize("failure", [answer(500), answer(200, b"{"), drop])
async def test_what_could_not_be_read_ahead_is_tried_again_when_it_is_asked_for(
    failure: Step,
) -> None:
    book = Book(odd={2: failure})
    async with walking(book) as walker:
        await walker.go_on(2)
        await book.is_reading(2)
        assert await walker.go_on() == [entry(2)["sid"]]
        assert book.read[:4] == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (answer(404), "not_found"),
        (answer(429, headers={"Retry-After": "3600"}), "rate_limited"),  # a wait is kept
    ],
)
async def test_whoever_asks_is_told_what_was_said_when_it_was_read_ahead(
    said: Step, kind: str
) -> None:
    book = Book(odd={2: said})
    async with walking(book) as walker:
        await walker.go_on(2)
        await book.is_reading(2)
        cursor = walker.outcome["next_cursor"]
        told = await walker.agent.call("list_calls", cursor=cursor)
        assert told["error"]["kind"] == kind
        assert book.read == [0, 1, 2]


async def test_what_nobody_asks_for_is_given_up() -> None:
    given_up = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await hang(exchange)
        given_up.set()

    book = Book(odd={2: wait})
    async with walking(book) as walker:
        await walker.go_on(2)
        with anyio.fail_after(4.5):  # the API is given 5 s
            await given_up.wait()


async def test_however_many_walk_there_is_room_left_for_others() -> None:
    counts = [0]

    async def read_ahead(exchange: Exchange) -> None:
        if int(exchange.request.query.get("Page", 0)) < 2:
            await Book()(exchange)
        else:
            counts.append(counts[-1] + 1)
            await hang(exchange)
            counts.append(counts[-1] - 1)

    async with scripted(read_ahead) as (_, agent):
        for number in range(12):
            told = await agent.call("list_calls", limit=1, to=f"+150055502{number:02}")
            assert (await agent.call("list_calls", cursor=told["next_cursor"]))["count"] == 1
    assert 1 < max(counts) <= 8


async def test_nobody_waits_at_the_end_for_what_was_read_ahead() -> None:
    book = Book(odd={2: hang})
    with anyio.fail_after(4):  # the API is given 5 s
        async with walking(book) as walker:
            await walker.go_on(2)
            await book.is_reading(2)
