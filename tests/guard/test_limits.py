"""The caps on new calls, on every kind of store."""

import re
import sqlite3
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calls_mcp.emulator import Emulator, ManualClock
from calls_mcp.errors import OutcomeNotStored, PolicyDenied, StoreUnavailable
from calls_mcp.guard.change import Dialing
from calls_mcp.guard.limits import CallLimits, Reservation
from calls_mcp.guard.policy.rules import Caps, load_policy
from calls_mcp.guard.repeated_calls import EarlierCalls
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.records import DAY, StorageOptions
from calls_mcp.storage.sqlite import SqliteStorage
from calls_mcp.tools.humanize import formatted
from calls_mcp.twilio.client import TwilioClient
from tests.harness import (
    ACCOUNT,
    TALKS_FOR_AN_HOUR,
    Agent,
    Client,
    Harness,
    access_to,
    open_harness,
    placing,
)
from tests.until import until
from tests.upstream import Exchange, answer, call, drop, page, scripted

pytestmark = pytest.mark.anyio

REJECTED = "+15005550003"
OTHER = "AC" + "7" * 32
ANOTHER = "+15005550206"
DIALS_THE_USUAL = f"<Response><Dial>{TALKS_FOR_AN_HOUR}</Dial></Response>"


@asynccontextmanager
async def capped(
    directory: Path, caps: str = "same_number_seconds = 30", confirm: str = "all"
) -> AsyncGenerator[tuple[Harness, Agent]]:
    """A server with these caps, and a client of it."""
    file = directory / "policy.toml"
    file.write_text(f"[caps]\n{caps}\n[urls]\nhttps_only = false\n", "utf-8")
    async with (
        open_harness(calls_mcp_policy=file, calls_mcp_confirm=confirm) as harness,
        harness.connect() as agent,
    ):
        yield harness, agent


async def test_servers_that_share_a_store_ring_a_number_once_unless_it_is_confirmed(
    tmp_path: Path,
) -> None:
    outcomes: list[str] = []
    settings = load_settings(
        {"calls_mcp_confirm": "none", "calls_mcp_state_url": f"sqlite:///{tmp_path / 'state.db'}"}
    )
    async with Emulator() as emulator, AsyncExitStack() as stack:
        agents: list[Agent] = []
        for _ in range(3):
            runtime = await stack.enter_async_context(
                Runtime(settings, access_to(emulator.base_url, timeout=30, deadline=60))
            )
            client = Client(build_server(runtime), cache=None)
            agents.append(Agent(await stack.enter_async_context(client)))

        async def place(agent: Agent) -> None:
            outcomes.append((await agent.call("create_call", **placing()))["outcome"])

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(place, agents[number % 3])
        placed = [entry for entry in emulator.requests if entry.method == "POST"]
    assert len(placed) == 1
    assert sorted(outcomes) == ["confirmation_required"] * 11 + ["done"]


class _Interrupted(SqliteStorage):
    """A store that lets other tasks run first, as often as `pauses` says."""

    def __init__(self, pauses: Iterator[int]) -> None:
        super().__init__(None, StorageOptions())
        self._pauses = pauses

    async def set_if_absent(self, key: str, ttl: float, value: str = "") -> str | None:
        await self._pause()
        return await super().set_if_absent(key, ttl, value)

    async def delete_if_equal(self, key: str, value: str) -> bool:
        await self._pause()
        return await super().delete_if_equal(key, value)

    async def get_with_ttl(self, key: str) -> tuple[str, float] | None:
        await self._pause()
        return await super().get_with_ttl(key)

    async def _pause(self) -> None:
        for _ in range(next(self._pauses)):
            await anyio.lowlevel.checkpoint()


CAPS = load_policy(None).caps


def limits_on(
    storage: Storage, account_sid: str = ACCOUNT, caps: Caps = CAPS, deadline: float = 0
) -> CallLimits:
    """Return limits on calls, with an API that must not be called."""
    twilio = TwilioClient(access_to("http://127.0.0.1:9"))
    return CallLimits(storage, twilio, caps, account_sid, deadline, str)


def new_call() -> Dialing:
    return Dialing(
        parties=("+15005550006",),
        at_once=1,
        sid="",
        principal="agent",
        longest=60,
        extended=60,
        lifetime=60,
        until=0,
    )


@given(pauses=st.lists(st.integers(0, 6), min_size=1), takers=st.integers(2, 5))
def test_exactly_one_of_several_concurrent_calls_to_a_number_is_reserved(
    pauses: list[int], takers: int
) -> None:
    taken: list[Reservation | EarlierCalls] = []

    async def take_at_once() -> None:
        storage = _Interrupted(cycle(pauses))
        limits = limits_on(storage)

        async def take() -> None:
            taken.append(await limits.reserve(new_call(), frozenset()))

        async with anyio.create_task_group() as tasks:
            for _ in range(takers):
                tasks.start_soon(take)
        await storage.aclose()

    anyio.run(take_at_once)
    assert sum(isinstance(each, Reservation) for each in taken) == 1


class _WithoutDeletion(SqliteStorage):
    async def delete_if_equal(self, key: str, value: str) -> bool:
        raise OutcomeNotStored(key + value)


async def test_a_store_that_fails_before_sending_is_reported_as_nothing_sent() -> None:
    storage = _WithoutDeletion(None, StorageOptions())
    limits = limits_on(storage)
    assert isinstance(await limits.reserve(new_call(), frozenset()), Reservation)
    recent = await limits.reserve(new_call(), frozenset())
    assert isinstance(recent, EarlierCalls)
    with pytest.raises(StoreUnavailable, match=r"^Nothing was sent") as caught:
        await limits.reserve(new_call(), recent.ids)
    assert caught.value.retryable
    await storage.aclose()


async def test_accounts_that_share_a_store_are_counted_separately() -> None:
    caps = replace(CAPS, calls_per_minute=1, in_flight=1)
    storage = SqliteStorage(None, StorageOptions())
    for sid in (ACCOUNT, OTHER):
        limits, call = limits_on(storage, sid, caps), new_call()
        assert isinstance(await limits.reserve(call, frozenset()), Reservation)
        with pytest.raises(PolicyDenied):
            await limits.check(replace(call, parties=(ANOTHER,)))
    await storage.aclose()


@pytest.mark.parametrize(("deadline", "seconds"), [(30, 600), (3600, 3660)])
async def test_a_call_is_noted_as_sent_for_longer_than_its_deadline(
    deadline: float, seconds: float
) -> None:
    storage = SqliteStorage(None, StorageOptions(clock=ManualClock(0)))
    await limits_on(storage, deadline=deadline).reserve(new_call(), frozenset())
    _, left = await storage.get_with_ttl(f"sent:{ACCOUNT}:+15005550006") or ("", 0)
    assert left == seconds
    await storage.aclose()


async def test_the_record_of_a_placed_call_outlasts_the_time_to_place_another(
    tmp_path: Path,
) -> None:
    url, clock = f"sqlite:///{tmp_path / 'state.db'}", ManualClock(1_700_000_000)
    settings = load_settings({"calls_mcp_confirm": "none", "calls_mcp_state_url": url})
    async with Emulator(clock=clock) as emulator:
        access = access_to(emulator.base_url, deadline=3600)
        async with (
            Runtime(settings, access, clock=clock) as runtime,
            Client(build_server(runtime), cache=None) as client,
        ):
            placed = await Agent(client).call("create_call", **placing())
        async with open_storage(url, StorageOptions(clock=clock)) as storage:
            _, left = await storage.get_with_ttl(f"call:{placed['call']['sid']}") or ("", 0)
    assert left == 3660


async def test_a_call_that_was_not_placed_does_not_count_as_recent(tmp_path: Path) -> None:
    async with capped(tmp_path) as (_, agent):
        rejected = await agent.confirm("create_call", **placing(to=REJECTED))
        asked = await agent.call("create_call", **placing(to=REJECTED))
    assert rejected["error"]["kind"] == "rejected"
    assert "was placed recently" not in asked["confirmation"]["preview"]


async def test_a_number_is_noted_for_all_subaccounts(tmp_path: Path) -> None:
    async with capped(tmp_path) as (_, agent):
        await agent.confirm("create_call", **placing())
        other = await agent.call("create_call", **placing(account_sid=OTHER))
    assert "was placed recently" in other["confirmation"]["preview"]


async def test_a_call_that_is_confirmed_again_restarts_the_interval(tmp_path: Path) -> None:
    async with capped(tmp_path) as (harness, agent):
        await agent.confirm("create_call", **placing())
        harness.clock.advance(20)
        again = await agent.confirm("create_call", **placing())
        harness.clock.advance(20)
        asked = await agent.call("create_call", **placing())
        assert len(harness.changes) == 2
    assert again["outcome"] == "done"
    assert "the same number was placed recently" in asked["confirmation"]["preview"]


@pytest.mark.requirement("37")
async def test_a_confirmation_from_before_a_call_does_not_ring_the_same_number_again(
    tmp_path: Path,
) -> None:
    async with capped(tmp_path) as (harness, agent):
        tokens = [
            (await agent.call("create_call", **placing()))["confirmation"]["token"]
            for _ in range(3)
        ]
        outcomes = [
            await agent.call("create_call", **placing(confirmation_token=token)) for token in tokens
        ]
        assert len(harness.changes) == 1
    assert [outcome["outcome"] for outcome in outcomes] == ["done", "expired", "expired"]
    assert "the same number was placed recently" in outcomes[1]["reason"]


@pytest.mark.requirement("37")
@pytest.mark.parametrize("seconds", [0, 30])
@pytest.mark.parametrize("change", [{}, {"to": ANOTHER, "twiml": DIALS_THE_USUAL}])
async def test_a_confirmation_from_before_a_call_is_never_valid_again(
    tmp_path: Path, seconds: int, change: dict[str, object]
) -> None:
    async with capped(tmp_path, f"same_number_seconds = {seconds}") as (harness, agent):
        await agent.confirm("create_call", **placing())
        harness.clock.advance(31)
        asked = await agent.call("create_call", **placing(**change))
        harness.clock.advance(31)
        known = await agent.call("create_call", **placing())
        token = known["confirmation"]["token"]
        placed = await agent.call("create_call", **placing(confirmation_token=token))
        harness.clock.advance(31)
        token = asked["confirmation"]["token"]
        late = await agent.call("create_call", **placing(**change, confirmation_token=token))
        assert len(harness.changes) == 2
        again = await agent.confirm("create_call", **placing(**change))
    assert placed["outcome"] == again["outcome"] == "done"
    assert late["outcome"] == "expired"
    whom = formatted(TALKS_FOR_AN_HOUR)
    assert f"Since the preview: A call to {whom} may have been placed." in late["reason"]


async def test_a_confirmation_is_still_valid_if_a_call_in_the_meantime_was_not_placed(
    tmp_path: Path,
) -> None:
    async with capped(tmp_path) as (harness, agent):
        asked = await agent.call("create_call", **placing(to=REJECTED))
        await agent.confirm("create_call", **placing(to=REJECTED))
        token = asked["confirmation"]["token"]
        sent = await agent.call("create_call", **placing(to=REJECTED, confirmation_token=token))
        assert len(harness.changes) == 2
    assert sent["error"]["kind"] == "rejected"


@pytest.mark.requirement("11")
async def test_a_confirmation_from_before_a_lost_answer_sends_nothing_again() -> None:
    unseen = answer(200, page())
    script = [drop, unseen, unseen, unseen, answer(201, call())]
    async with scripted(*script, calls_mcp_confirm="all") as (upstream, agent):
        tokens = [
            (await agent.call("create_call", **placing()))["confirmation"]["token"]
            for _ in range(2)
        ]
        first, second = [
            await agent.call("create_call", **placing(confirmation_token=token)) for token in tokens
        ]
        assert len(upstream.changes) == 1
        third = await agent.confirm("create_call", **placing())
    assert first["error"]["kind"] == "outcome_unknown"
    assert second["outcome"] == "expired"
    assert "may ring twice" in second["reason"]
    assert third["outcome"] == "done"


@pytest.mark.parametrize("cap", ["in_flight = 2", "[caps.principal]\nin_flight = 2"])
async def test_live_calls_never_exceed_the_limit(tmp_path: Path, cap: str) -> None:
    async with capped(tmp_path, f"same_number_seconds = 0\n{cap}", confirm="none") as (
        harness,
        agent,
    ):
        first = await agent.call("create_call", **placing())
        await agent.call("create_call", **placing(to=ANOTHER))
        refused = await agent.call("create_call", **placing())
        assert len(harness.changes) == 2
        harness.clock.advance(20)
        await agent.call("update_call", sid=first["call"]["sid"], status="completed")
        allowed = await agent.call("create_call", **placing())
    assert "in_flight)" in refused["error"]["message"]
    assert "update_call" in refused["error"]["hint"]
    assert allowed["outcome"] == "done"


async def test_a_call_that_was_not_placed_or_whose_record_has_gone_is_not_in_flight(
    tmp_path: Path,
) -> None:
    caps = "same_number_seconds = 0\nin_flight = 1"
    async with capped(tmp_path, caps, confirm="none") as (_, agent):
        await agent.call("create_call", **placing(to=REJECTED))
        first = await agent.call("create_call", **placing())
        sid = first["call"]["sid"]
        await agent.call("update_call", sid=sid, status="completed")
        await agent.call("delete_call", sid=sid)
        second = await agent.call("create_call", **placing())
    assert second["outcome"] == "done"


async def test_a_limit_reached_after_the_confirmation_is_refused_with_a_hint(
    tmp_path: Path,
) -> None:
    async with capped(tmp_path, "same_number_seconds = 0\ncalls_per_minute = 1") as (_, agent):
        asked = await agent.call("create_call", **placing())
        await agent.confirm("create_call", **placing(to=ANOTHER))
        token = asked["confirmation"]["token"]
        refused = await agent.call("create_call", **placing(confirmation_token=token))
        early = await agent.call("create_call", **placing())
    assert early["error"]["kind"] == "policy_denied"
    assert "caps.calls_per_minute" in early["error"]["message"]
    assert "Wait 1 min." in refused["error"]["hint"]
    assert "without confirmation_token" in refused["error"]["hint"]
    assert TALKS_FOR_AN_HOUR not in refused["error"]["message"]


async def test_a_reached_short_limit_does_not_hide_a_longer_one(tmp_path: Path) -> None:
    caps = "same_number_seconds = 0\ncalls_per_minute = 1\nprincipal.calls_per_day = 1"
    async with capped(tmp_path, caps, confirm="none") as (_, agent):
        await agent.call("create_call", **placing())
        refused = await agent.call("create_call", **placing())
    assert "(caps.principal.calls_per_day)" in refused["error"]["message"]
    assert "Wait 24 h." in refused["error"]["hint"]


async def test_of_several_confirmations_requested_after_the_same_call_only_one_is_valid(
    tmp_path: Path,
) -> None:
    outcomes: list[str] = []
    async with capped(tmp_path) as (harness, agent):
        await agent.confirm("create_call", **placing())
        asked = [await agent.call("create_call", **placing()) for _ in range(5)]
        assert "was placed recently" in asked[0]["confirmation"]["preview"]

        async def use(token: str) -> None:
            outcome = await agent.call("create_call", **placing(confirmation_token=token))
            outcomes.append(outcome["outcome"])

        async with anyio.create_task_group() as tasks:
            for each in asked:
                tasks.start_soon(use, each["confirmation"]["token"])
        assert len(harness.changes) == 2
    assert sorted(outcomes) == ["done"] + ["expired"] * 4


DIALS_ANOTHER = f"<Response><Dial>{ANOTHER}</Dial></Response>"


async def test_a_number_that_twiml_dials_counts_as_called(tmp_path: Path) -> None:
    caps = "same_number_seconds = 30\ncalls_per_minute = 3"
    async with capped(tmp_path, caps, confirm="none") as (rig, agent):
        await agent.call("create_call", **placing(twiml=DIALS_ANOTHER))
        asked = await agent.call("create_call", **placing(to=ANOTHER))
        assert len(rig.changes) == 1
        token = asked["confirmation"]["token"]
        await agent.call("create_call", **placing(to=ANOTHER, confirmation_token=token))
        refused = await agent.call("create_call", **placing(to="+15005550205"))
    assert "the same number was placed recently" in asked["confirmation"]["preview"]
    assert "caps.calls_per_minute" in refused["error"]["message"]


async def test_a_live_call_whose_new_twiml_dials_a_recent_number_is_confirmed_first(
    tmp_path: Path,
) -> None:
    async with capped(tmp_path, confirm="none") as (rig, agent):
        sid = (await agent.call("create_call", **placing()))["call"]["sid"]
        await agent.call("create_call", **placing(to=ANOTHER))
        rig.clock.advance(10)
        update = {"sid": sid, "twiml": DIALS_ANOTHER}
        asked = await agent.call("update_call", **update)
        token = asked["confirmation"]["token"]
        done = await agent.call("update_call", **update, confirmation_token=token)
    assert "the same number was placed recently" in asked["confirmation"]["preview"]
    assert done["outcome"] == "done"


async def test_each_call_to_the_same_number_counts(tmp_path: Path) -> None:
    twice = f"<Response>{f'<Dial>{ANOTHER}</Dial>' * 2}</Response>"
    async with capped(tmp_path, "calls_per_minute = 2", confirm="none") as (harness, agent):
        refused = await agent.call("create_call", **placing(twiml=twice))
        assert harness.changes == []
    assert "caps.calls_per_minute" in refused["error"]["message"]


@pytest.mark.parametrize(
    ("cap", "dial"),
    [
        ("calls_per_minute = 2", f"<Dial>{ANOTHER}</Dial>" * 2),
        ("[caps.principal]\ncalls_per_day = 2", f"<Dial>{ANOTHER}</Dial>" * 2),
        ("in_flight = 2", f"<Dial>{f'<Number>{ANOTHER}</Number>' * 2}</Dial>"),
        ("[caps.principal]\nin_flight = 2", f"<Dial>{'<Client>bob</Client>' * 2}</Dial>"),
    ],
)
async def test_a_change_that_dials_more_than_a_cap_allows_is_refused_without_asking(
    tmp_path: Path, cap: str, dial: str
) -> None:
    async with capped(tmp_path, cap) as (harness, agent):
        refused = await agent.call("create_call", **placing(twiml=f"<Response>{dial}</Response>"))
        assert harness.changes == []
    what = "calls" if "in_flight" in cap else "calls or messages"
    assert f"this makes 3 {what}, and the limit is 2" in refused["error"]["message"]
    assert "Call or message fewer numbers in twiml." in refused["error"]["hint"]


async def test_a_preview_is_shown_only_if_all_calls_of_the_change_are_available(
    tmp_path: Path,
) -> None:
    caps = "same_number_seconds = 0\ncalls_per_minute = 3"
    twice = f"<Response>{f'<Dial>{ANOTHER}</Dial>' * 2}</Response>"
    async with capped(tmp_path, caps) as (_, agent):
        assert (await agent.call("create_call", **placing(twiml=twice)))["confirmation"]
        await agent.confirm("create_call", **placing())
        refused = await agent.call("create_call", **placing(twiml=twice))
        assert (await agent.call("create_call", **placing()))["confirmation"]
    assert "(caps.calls_per_minute)" in refused["error"]["message"]


@pytest.mark.parametrize(
    ("dial", "left"),
    [
        ("<Dial><Number>{0}</Number><Client>bob</Client></Dial>", 1),
        ("<Dial>{0}</Dial><Dial>{0}</Dial>", 2),
        ('<Dial sequential="true"><Number>{0}</Number><Number>{0}</Number></Dial>', 2),
        ("<Dial><Conference>Room</Conference></Dial>", 3),
        ('<Sms to="{0}">Hello</Sms>', 3),
    ],
)
async def test_a_call_counts_in_flight_once_for_each_party_that_it_dials_at_once(
    tmp_path: Path, dial: str, left: int
) -> None:
    twiml = f"<Response>{dial.format(ANOTHER)}</Response>"
    caps = "same_number_seconds = 0\nin_flight = 4"
    async with capped(tmp_path, caps, confirm="none") as (harness, agent):
        first = await agent.call("create_call", **placing(twiml=twiml))
        more = [await agent.call("create_call", **placing()) for _ in range(left + 1)]
        await agent.call("update_call", sid=first["call"]["sid"], status="completed")
        after = await agent.call("create_call", **placing(twiml=twiml))
        assert len(harness.changes) == 3 + left
    assert [each["outcome"] for each in more] == ["done"] * left + ["error"]
    assert "(caps.in_flight)" in more[-1]["error"]["message"]
    assert after["outcome"] == "done"


async def test_new_twiml_of_a_live_call_counts_in_flight_instead_of_its_previous_twiml(
    tmp_path: Path,
) -> None:
    caps = "same_number_seconds = 0\nin_flight = 2"
    async with capped(tmp_path, caps, confirm="none") as (_, agent):
        sid = (await agent.call("create_call", **placing()))["call"]["sid"]
        for _ in range(3):
            done = await agent.call("update_call", sid=sid, twiml=DIALS_ANOTHER)
            assert done["outcome"] == "done"
        refused = await agent.call("create_call", **placing())
    assert "(caps.in_flight)" in refused["error"]["message"]


@pytest.mark.parametrize(
    ("number", "again"),
    [
        ("+442079460000", "+4402079460000"),
        ("+442079460000", "+4420794600009"),
        ("+442079460000", "+440207946000099"),
        ("+442079460000", "sip:+442079460000@example.com"),
        ("+442079460000", "sip:00442079460000@example.com;transport=tls"),
        ("+525512345678", "+5215512345678"),
        ("+525512345678", "sip:+52155123456789@example.com"),
    ],
)
async def test_another_spelling_of_a_number_is_the_same_number(
    tmp_path: Path, number: str, again: str
) -> None:
    async with capped(tmp_path) as (_, agent):
        await agent.confirm("create_call", **placing(to=number))
        asked = await agent.call("create_call", **placing(to=again))
    assert "was placed recently" in asked["confirmation"]["preview"]


async def test_a_call_that_another_server_is_still_sending_needs_a_confirmation(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    over = anyio.Event()

    async def later(exchange: Exchange) -> None:
        await over.wait()
        await answer(201, call())(exchange)

    async with (
        scripted(later, calls_mcp_state_url=url) as (upstream, sender),
        scripted(answer(201, call()), calls_mcp_state_url=url) as (after, agent),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(lambda: sender.call("create_call", **placing()))
        await until(lambda: upstream.changes)
        asked = await agent.call("create_call", **placing())
        assert after.changes == []
        assert asked["outcome"] == "confirmation_required"
        assert "may ring twice" in asked["confirmation"]["preview"]
        over.set()


@pytest.mark.requirement("37")
@pytest.mark.parametrize(
    ("cap", "span", "wait"), [("day", 86_400, "24 h"), ("week", 7 * 86_400, "168 h")]
)
async def test_a_number_is_called_as_often_as_allowed_however_it_is_spelled(
    tmp_path: Path, cap: str, span: float, wait: str
) -> None:
    caps = f"same_number_seconds = 0\nsame_number_per_{cap} = 2"
    first, spelled = "sip:0012025550171@EXAMPLE.com", "sip:+1-202-555-0171@example.com"
    async with capped(tmp_path, caps, confirm="none") as (harness, agent):
        for to in (first, spelled):
            assert (await agent.call("create_call", **placing(to=to)))["outcome"] == "done"
        refused = await agent.call("create_call", **placing(to=spelled))
        twiml = f"<Response><Dial><Sip>{spelled}</Sip></Dial></Response>"
        dialed = await agent.call("create_call", **placing(twiml=twiml))
        assert len(harness.changes) == 2
        harness.clock.advance(span)
        later = await agent.call("create_call", **placing(to=spelled))
    for outcome in (refused, dialed):
        assert f"(caps.same_number_per_{cap}): the limit of 2 calls" in outcome["error"]["message"]
        assert f"Wait {wait}." in outcome["error"]["hint"]
    assert later["outcome"] == "done"


X = "+12025550171"
OFTEN = {
    "dials": (ANOTHER, f"<Dial>{X}</Dial>" * 3),
    "one dial": (ANOTHER, f"<Dial>{f'<Number>{X}</Number>' * 3}</Dial>"),
    "spellings": (ANOTHER, f"<Dial>{X}</Dial>" + f"<Dial><Sip>sip:{X}@a.example</Sip></Dial>" * 2),
    "messages": (ANOTHER, f'<Sms to="{X}">Hello</Sms>' * 3),
    "to, too": (X, f"<Dial>{X}</Dial>" * 2),
}


@pytest.mark.requirement("37")
@pytest.mark.parametrize(("to", "twiml"), OFTEN.values(), ids=OFTEN)
@pytest.mark.parametrize("span", ["day", "week"])
async def test_a_number_is_not_called_more_often_than_allowed_by_one_change(
    tmp_path: Path, to: str, twiml: str, span: str
) -> None:
    change = placing(to=to, twiml=f"<Response>{twiml}</Response>")
    caps = f"same_number_seconds = 0\nsame_number_per_{span} = 2"
    async with capped(tmp_path, caps, confirm="none") as (harness, agent):
        refused = await agent.call("create_call", **change)
        assert harness.changes == []
    assert f"(caps.same_number_per_{span})" in refused["error"]["message"]
    assert (
        "3 calls or messages to the same number, and the limit is 2" in refused["error"]["message"]
    )
    assert "Call or message fewer numbers in twiml." in refused["error"]["hint"]
    caps = f"same_number_seconds = 0\nsame_number_per_{span} = 5"
    async with capped(tmp_path, caps, confirm="none") as (harness, agent):
        assert (await agent.call("create_call", **change))["outcome"] == "done"
        refused = await agent.call("create_call", **change)
        assert len(harness.changes) == 1
    assert "the limit of 5 calls to the same number" in refused["error"]["message"]


@pytest.mark.requirement("37")
@pytest.mark.parametrize(("to", "twiml"), OFTEN.values(), ids=OFTEN)
@pytest.mark.parametrize(
    ("confirm", "pre_approved"),
    [("none", "[]"), ("all", f"['{ANOTHER}', '{X}', 'sip:{X}@a.example']")],
)
async def test_a_change_that_calls_a_number_repeatedly_is_confirmed_first(
    tmp_path: Path, to: str, twiml: str, confirm: str, pre_approved: str
) -> None:
    change = placing(to=to, twiml=f"<Response>{twiml}</Response>")
    caps = f"same_number_seconds = 30\n[destinations]\npre_approved = {pre_approved}"
    async with capped(tmp_path, caps, confirm) as (harness, agent):
        asked = await agent.call("create_call", **change)
        assert harness.changes == []
        token = asked["confirmation"]["token"]
        placed = await agent.call("create_call", **change, confirmation_token=token)
    assert re.search(r"Repeated: .* 3 times\.\n", asked["confirmation"]["preview"])
    assert placed["outcome"] == "done"


async def test_the_preview_says_how_often_the_number_was_called(tmp_path: Path) -> None:
    previews: list[str] = []
    async with capped(tmp_path, "same_number_seconds = 0") as (harness, agent):
        for _ in range(3):
            asked = await agent.call("create_call", **placing())
            previews.append(asked["confirmation"]["preview"])
            token = asked["confirmation"]["token"]
            await agent.call("create_call", **placing(confirmation_token=token))
        harness.clock.advance(86_400)
        known = await agent.call("create_call", **placing())
        both = await agent.call("create_call", **placing(twiml=DIALS_ANOTHER))
        client = await agent.call("create_call", **placing(to="client:jo"))
    assert "New number: This server has not called it in the past year.\n" in previews[0]
    assert (
        "New address: This server has not called it in the past year.\n"
        in client["confirmation"]["preview"]
    )
    assert "Repeated: Second call to this number in 24 h.\n" in previews[1]
    assert "Repeated: Third call to this number in 24 h.\n" in previews[2]
    assert "call to this number" not in known["confirmation"]["preview"]
    new = f"New number: This server has not called {formatted(ANOTHER)} in the past year.\n"
    assert new in both["confirmation"]["preview"]


async def test_a_rejected_call_does_not_count_as_a_call_to_the_number(tmp_path: Path) -> None:
    async with capped(tmp_path, "same_number_per_day = 1") as (_, agent):
        for _ in range(2):
            rejected = await agent.confirm("create_call", **placing(to=REJECTED))
            assert rejected["error"]["kind"] == "rejected"
        asked = await agent.call("create_call", **placing(to=REJECTED))
    assert "New number: " in asked["confirmation"]["preview"]


async def test_the_store_does_not_keep_the_numbers_that_were_called(tmp_path: Path) -> None:
    settings = load_settings(
        {"calls_mcp_confirm": "none", "calls_mcp_state_url": f"sqlite:///{tmp_path / 'state.db'}"}
    )
    clock = ManualClock(1_700_000_000)
    async with Emulator(clock=clock) as emulator:
        access = access_to(emulator.base_url)
        async with (
            Runtime(settings, access, clock=clock) as runtime,
            Client(build_server(runtime), cache=None) as client,
        ):
            for to in (TALKS_FOR_AN_HOUR, ANOTHER):  # the second call deletes what has expired
                assert (await Agent(client).call("create_call", **placing(to=to)))["call"]
                clock.advance(86_400)
    with closing(sqlite3.connect(tmp_path / "state.db")) as db:
        rows = [*db.execute("SELECT * FROM notes"), *db.execute("SELECT * FROM counts")]
    kept = "\n".join(map(str, rows))
    assert "calls_to/" in kept
    assert TALKS_FOR_AN_HOUR not in kept


async def test_talk_is_limited_by_real_durations_once_calls_have_ended(tmp_path: Path) -> None:
    caps = "same_number_seconds = 0\nminutes_per_day = 10"
    async with capped(tmp_path, caps, confirm="none") as (harness, agent):
        first = await agent.call("create_call", **placing())
        harness.clock.advance(1)
        await agent.call("create_call", **placing())
        refused = await agent.call("create_call", **placing())
        assert len(harness.changes) == 2
        harness.clock.advance(60)
        await agent.call("update_call", sid=first["call"]["sid"], status="completed")
        reads = len(harness.reads)
        third = await agent.call("create_call", **placing(time_limit=200))
        lookups = len(harness.reads) - reads
        again = await agent.call("create_call", **placing())
        assert len(harness.changes) == 4
    assert "(caps.minutes_per_day): the limit of 10 min of talk time" in refused["error"]["message"]
    assert "Try again when a call has ended, or in 24 h at the latest." in refused["error"]["hint"]
    assert third["outcome"] == "done"
    assert lookups == 1
    assert again["error"]["kind"] == "policy_denied"


async def test_a_live_call_uses_talk_time_from_when_it_was_placed(tmp_path: Path) -> None:
    caps = "same_number_seconds = 0\nminutes_per_day = 60"
    async with capped(tmp_path, caps, confirm="none") as (harness, agent):
        placed = await agent.call("create_call", **placing(time_limit=3400))
        harness.clock.advance(3301)
        refused = await agent.call("create_call", **placing())
        short = await agent.call("create_call", **placing(time_limit=60))
        harness.clock.advance(86_400 - 3301)
        later = await agent.call("create_call", **placing())
    assert placed["outcome"] == short["outcome"] == later["outcome"] == "done"
    assert "caps.minutes_per_day" in refused["error"]["message"]


async def test_a_live_call_with_a_new_time_limit_uses_talk_time_from_when_it_was_placed(
    tmp_path: Path,
) -> None:
    caps = "same_number_seconds = 0\nminutes_per_day = 20"
    async with capped(tmp_path, caps, confirm="none") as (harness, agent):
        sid = (await agent.call("create_call", **placing(time_limit=1)))["call"]["sid"]
        changed = await agent.call("update_call", sid=sid, time_limit=3600)
        harness.clock.advance(1000)
        refused = await agent.call("create_call", **placing(time_limit=1))
    assert changed["outcome"] == "done"
    assert "caps.minutes_per_day" in refused["error"]["message"]


async def test_new_time_limits_use_talk_time_in_advance_but_ending_a_call_does_not(
    tmp_path: Path,
) -> None:
    caps = "same_number_seconds = 0\nminutes_per_day = 10"
    async with capped(tmp_path, caps, confirm="none") as (_, agent):
        sids = [
            (await agent.call("create_call", **placing(time_limit=1)))["call"]["sid"]
            for _ in range(3)
        ]
        first, refused, shorter = [
            await agent.call("update_call", sid=sid, time_limit=seconds)
            for sid, seconds in zip(sids, (3600, 3600, 290), strict=True)
        ]
        ended = await agent.call("update_call", sid=sids[0], status="completed", time_limit=3600)
    assert first["outcome"] == shorter["outcome"] == ended["outcome"] == "done"
    assert "caps.minutes_per_day" in refused["error"]["message"]


async def test_a_call_with_a_new_time_limit_is_in_flight_until_it_has_ended(
    tmp_path: Path,
) -> None:
    caps = "same_number_seconds = 0\nin_flight = 1"
    async with capped(tmp_path, caps, confirm="none") as (harness, agent):
        sid = (await agent.call("create_call", **placing(time_limit=1)))["call"]["sid"]
        await agent.call("update_call", sid=sid, time_limit=3600)
        harness.clock.advance(1000)
        refused = await agent.call("create_call", **placing())
        harness.clock.advance(3600)
        allowed = await agent.call("create_call", **placing())
    assert "caps.in_flight" in refused["error"]["message"]
    assert allowed["outcome"] == "done"


async def test_calls_that_twiml_makes_use_talk_time_too(tmp_path: Path) -> None:
    caps = "same_number_seconds = 0\nminutes_per_day = 10"
    async with capped(tmp_path, caps, confirm="none") as (_, agent):
        placed = await agent.call("create_call", **placing(twiml=DIALS_ANOTHER))
        refused = await agent.call("create_call", **placing(time_limit=1))
    assert placed["outcome"] == "done"
    assert "caps.minutes_per_day" in refused["error"]["message"]


async def test_a_rejected_call_and_one_that_nobody_answered_use_no_talk_time(
    tmp_path: Path,
) -> None:
    caps = "same_number_seconds = 0\nminutes_per_day = 3"
    async with capped(tmp_path, caps, confirm="none") as (harness, agent):
        await agent.call("create_call", **placing(to=REJECTED))
        first = await agent.call("create_call", **placing())
        await agent.call("update_call", sid=first["call"]["sid"], status="canceled")
        harness.clock.advance(1)
        second = await agent.call("create_call", **placing())
    assert first["outcome"] == second["outcome"] == "done"


async def test_each_principal_has_its_own_talk_time(tmp_path: Path) -> None:
    caps = "same_number_seconds = 0\n[caps.principal]\nminutes_per_day = 5"
    async with capped(tmp_path, caps) as (harness, agent):
        await agent.confirm("create_call", **placing())
        refused = await agent.call("create_call", **placing())
        async with harness.connect(name="another") as other:
            placed = await other.confirm("create_call", **placing())
    assert "(caps.principal.minutes_per_day)" in refused["error"]["message"]
    assert placed["outcome"] == "done"


async def test_a_lost_call_takes_its_estimate(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    text = "[caps]\nsame_number_seconds = 0\nminutes_per_day = 9\n[urls]\nhttps_only = false\n"
    file.write_text(text, "utf-8")
    unseen = answer(200, page())
    script = [drop, unseen, unseen, unseen]
    opening = scripted(*script, calls_mcp_confirm="all", calls_mcp_policy=file)
    async with opening as (upstream, agent):
        lost = await agent.confirm("create_call", **placing())
        refused = await agent.call("create_call", **placing(to=ANOTHER))
        assert len(upstream.changes) == 1
    assert lost["error"]["kind"] == "outcome_unknown"
    assert "caps.minutes_per_day" in refused["error"]["message"]


@dataclass(frozen=True, slots=True)
class Talk:
    """A call by one of two agents, its time limits in turn, and what happens until the next one."""

    agent: int
    limits: Sequence[int]
    seconds: int
    is_ended: bool


SECONDS = st.sampled_from([1, 60, 299, 300, 900, 3600])
TALKS = st.builds(
    Talk,
    agent=st.integers(0, 1),
    limits=st.lists(SECONDS, min_size=1, max_size=2),
    seconds=SECONDS | st.just(DAY),
    is_ended=st.booleans(),
)


@dataclass(frozen=True, slots=True)
class Talks:
    """Two agents, and the calls that they placed, as the emulator knows them."""

    harness: Harness
    agents: Sequence[Agent]
    minutes: int
    minutes_each: int
    placed: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))

    async def make(self, talk: Talk) -> None:
        agent, (limit, *changed) = self.agents[talk.agent], talk.limits
        used = [sum(map(self.talked, sids)) for sids in self.placed]
        outcome = await agent.call("create_call", **placing(time_limit=limit))
        if outcome["outcome"] != "done":
            self.harness.clock.advance(talk.seconds)
            return
        self.check_room(limit, sum(used), used[talk.agent])
        sid = outcome["call"]["sid"]
        self.placed[talk.agent].append(sid)
        for seconds in changed:
            await agent.call("update_call", sid=sid, time_limit=seconds)
        self.harness.clock.advance(talk.seconds)
        if talk.is_ended:
            await agent.call("update_call", sid=sid, status="completed")

    def talked(self, sid: str) -> float:
        """How many seconds a call of the last 24 h has really talked so far."""
        call, now = self.harness.emulator.calls.get(sid), self.harness.clock()
        if not call or call.answer_at is None or now - call.created >= DAY:
            return 0
        return max(0, min(now, call.end_at) - call.answer_at)

    def check_room(self, seconds: int, used: float, used_by_agent: float) -> None:
        total, own = 60 * self.minutes, 60 * self.minutes_each
        needed = min(300, seconds, *filter(None, (total, own)))
        assert not total or used + needed <= total
        assert not own or used_by_agent + needed <= own


@settings(max_examples=25)
@given(
    minutes=st.sampled_from([1, 5, 10, 0]),
    minutes_each=st.sampled_from([0, 1, 5]),
    longest=st.sampled_from([900, 300, 0]),
    talks=st.lists(TALKS, min_size=2, max_size=8),
)
def test_no_call_is_longer_than_its_limit_or_placed_once_the_talk_time_is_used_up(
    minutes: int, minutes_each: int, longest: int, talks: Sequence[Talk]
) -> None:
    caps = (
        f"same_number_seconds = 0\nminutes_per_day = {minutes}\ntime_limit = {longest}\n"
        f"[caps.principal]\nminutes_per_day = {minutes_each}"
    )

    async def check(directory: Path) -> None:
        async with (
            capped(directory, caps, confirm="none") as (harness, agent),
            harness.connect(name="another") as another,
        ):
            made = Talks(harness, (agent, another), minutes, minutes_each)
            for talk in talks:
                await made.make(talk)
            for call in harness.emulator.calls.all():
                talked = call.end_at - (call.answer_at or call.end_at)
                assert not longest or talked <= longest

    with TemporaryDirectory() as directory:
        anyio.run(check, Path(directory))
