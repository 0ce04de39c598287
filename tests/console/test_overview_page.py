"""Statistics and charts of a day, a week or a month."""

import re
from decimal import Decimal
from functools import partial
from pathlib import Path

import anyio
import pytest

from calls_mcp.audit import search
from calls_mcp.audit.records import Fields, parse
from calls_mcp.console.charts import bars, columns
from calls_mcp.console.overview_page import costs_chart
from calls_mcp.emulator import past_calls
from tests.console.harness import Harness, WebClient, open_harness, sign_in, text_of
from tests.harness import User, approve, decline, placing

pytestmark = pytest.mark.anyio

BUSY = "+15005550201"


async def test_the_calls_and_decisions_of_today_are_counted(tmp_path: Path) -> None:
    rules = 'place = "never"\nhang_up = "operator"\ndelete = "deny"'
    async with open_harness(tmp_path, rules) as harness, sign_in(harness.console) as ann:
        async with harness.connect() as agent:
            sids = [(await agent.call("create_call", **placing()))["call"]["sid"] for _ in "123"]
            harness.clock.advance(30)
            for sid, decision in zip(sids, ("approve", "deny"), strict=False):
                asked = await agent.call("update_call", sid=sid, status="completed")
                approval = asked["confirmation"]["approval"]
                await ann.decide(f"/approvals/{approval}", decision=decision, confirmed="1")
                await agent.call("update_call", sid=sid, status="completed")
            await agent.call("delete_call", sid=sids[0])
        html = await ann.read("/overview")
        harness.clock.advance(90_000)  # longer than a session lasts
        async with sign_in(harness.console) as later:
            empty = text_of(await later.read("/overview"))
    text = text_of(html)
    assert "Calls 3 Answer rate" in text
    assert "Hour (UTC) Completed In progress 2023-11-14 22 1 2" in text
    assert "10 to 59 s 1" in text
    assert "Approved 1 Denied 1 Expired 0 Withdrawn 0 Pending 0" in text
    assert "confirm.delete 1" in text
    assert html.count('role="img" aria-label=') >= 4
    assert "style=" not in html
    assert "Calls 0 Answer rate" in empty
    assert "Approved by an operator None" in empty


@pytest.mark.parametrize("rules", ['place = "never"'])
async def test_only_ended_calls_have_an_answer_rate_and_talk_time(
    harness: Harness, ann: WebClient
) -> None:
    async with harness.connect() as agent:
        await agent.call("create_call", **placing())
        assert "Answer rate None Talk time 0 s" in text_of(await ann.read("/overview"))
        for busy in (BUSY, BUSY):
            await agent.call("create_call", **placing(to=busy))
        harness.clock.advance(70)
        assert "Answer rate 0% Talk time 0 s" in text_of(await ann.read("/overview"))
    harness.clock.advance(4000)
    assert "Answer rate 33% Talk time 1 h Cost" in text_of(await ann.read("/overview"))


async def test_a_range_counts_by_day_and_other_ranges_are_refused(
    harness: Harness, ann: WebClient
) -> None:
    await harness.request_call()
    html = await ann.read("/overview?range=7d")
    assert "In the last 7 days, up to" in text_of(html)
    assert "Calls by day (UTC)" in html
    assert (await ann.get("/overview?range=1y")).status_code == 400


@pytest.mark.parametrize("rules", ['place = "never"'])
async def test_other_days_can_be_chosen(harness: Harness, ann: WebClient) -> None:
    await harness.place_call()  # 2023-11-14, 22:13 UTC
    harness.clock.advance(3 * 3600)
    await harness.place_call()
    shown = text_of(await ann.read("/overview?from=2023-11-13&to=2023-11-14"))
    assert "From 2023-11-13 to 2023-11-14, up to 2023-11-14 23:59:59 UTC" in shown
    assert "Hour (UTC) Completed 2023-11-14 22 1" in shown
    one_day = text_of(await ann.read("/overview?from=2023-11-15&to=2023-11-15"))
    assert "Calls 1 Answer rate" in one_day
    assert "2023-11-15 01" in one_day
    for wrong in ("from=2023-11-14", "from=x&to=y", "from=2023-11-15&to=2023-11-14"):
        assert (await ann.get(f"/overview?{wrong}")).status_code == 400
    for beyond in ("from=2023-10-01&to=2023-11-14", "from=2023-11-15&to=2023-11-16"):
        assert "between 2023-10-16 and 2023-11-15" in (await ann.get(f"/overview?{beyond}")).text


@pytest.mark.parametrize("rules", ['place = "never"'])
async def test_today_is_the_day_of_the_reader(harness: Harness, ann: WebClient) -> None:
    await harness.place_call()  # at 22:13 UTC
    harness.clock.advance(3 * 3600)
    assert "Today, up to 2023-11-15 01:13:40 UTC Today" in text_of(await ann.read("/overview"))
    ann.http.cookies.set("zone", "Africa/Cairo")
    html = await ann.read("/overview")
    assert "Calls 1 Answer rate" in text_of(html)
    assert "Hour (Africa/Cairo) Completed 2023-11-15 00 1" in text_of(html)
    assert 'role="img" aria-label="Calls by hour (Africa/Cairo)"' in html  # of the same calls
    html = await ann.read("/overview?range=7d")
    assert "Day (Africa/Cairo) Completed 2023-11-15 1" in text_of(html)
    for unknown in ("../../etc/passwd", "Europe", "x" * 1000, "No/Where"):
        ann.http.cookies.set("zone", unknown)
        assert "Calls 0 Answer rate" in text_of(await ann.read("/overview"))


@pytest.mark.parametrize("rules", ['place = "never"'])
async def test_deleted_calls_are_no_longer_counted_after_an_hour(
    harness: Harness, ann: WebClient
) -> None:
    harness.emulator.calls.add(*past_calls(1, 120, harness.clock()))
    await ann.read("/overview?range=7d")
    harness.emulator.calls.delete(harness.emulator.calls.all()[-1].sid)
    harness.clock.advance(3600)
    while "Calls 119 Answer rate" not in text_of(await ann.read("/overview?range=7d")):
        harness.clock.advance(61)


async def test_the_results_of_approval_requests_add_up(harness: Harness, ann: WebClient) -> None:
    await harness.request_call(timeout=8)
    harness.clock.advance(901)
    first = await harness.request_call()
    second = await harness.request_call(timeout=9)
    await harness.request_call(timeout=10)
    harness.clock.advance(30)
    await ann.decide(f"/approvals/{first}", decision="approve")
    harness.clock.advance(60)
    await ann.decide(f"/approvals/{second}", decision="deny")
    text = text_of(await ann.read("/overview"))
    assert "Approved 1 Denied 1 Expired 1 Withdrawn 0 Pending 1" in text
    assert "Approved by an operator 1 of 4" in text
    assert "Median time to decide 1 min" in text


async def test_confirmations_are_those_of_users(tmp_path: Path) -> None:
    rules = 'place = "confirm"\nhang_up = "operator"'
    async with open_harness(tmp_path, rules) as harness, sign_in(harness.console) as ann:
        async with harness.connect() as agent:
            sid = await agent.place()
            harness.clock.advance(30)
            asked = await agent.call("update_call", sid=sid, status="completed")
            approval = asked["confirmation"]["approval"]
            await ann.decide(f"/approvals/{approval}", decision="approve", confirmed="1")
            await agent.call("update_call", sid=sid, status="completed")
        for reply in (approve, decline, decline):
            async with harness.connect(user=User(reply)) as agent:
                await agent.call("create_call", **placing())
        text = text_of(await ann.read("/overview"))
    assert "Confirmed by a user 2 of 4" in text
    assert "Requested 4 Confirmed 2 Declined 2 Expired 0" in text
    assert "Approved by an operator 1 of 1" in text


async def test_only_refusals_by_the_policy_are_counted_as_refusals(tmp_path: Path) -> None:
    rules = 'place = "never"\ndelete = "deny"'
    async with (
        open_harness(tmp_path, rules) as harness,
        harness.connect() as agent,
        sign_in(harness.console) as ann,
    ):
        sid = (await agent.call("create_call", **placing()))["call"]["sid"]
        unknown = {"sid": f"CA{'0' * 32}", "status": "completed"}
        forged = {"sid": sid, "status": "completed", "confirmation_token": f"{'x' * 12}.{'y' * 20}"}
        refused = [
            await agent.call("delete_call", sid=sid),
            await agent.call("update_call", **unknown),
            await agent.call("update_call", **forged),
        ]
        kinds = [outcome["error"]["kind"] for outcome in refused]
        assert kinds == ["policy_denied", "not_found", "invalid_confirmation"]
        text = text_of(await ann.read("/overview"))
    assert "Refused by policy 1 " in text
    assert "confirm.delete 1" in text
    assert "not_found" not in text
    assert "invalid_confirmation" not in text


def count_parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A list that gets each audit record that is read."""
    parsed = list[bytes]()

    def counted(line: bytes) -> Fields | None:
        parsed.append(line)
        return parse(line)

    monkeypatch.setattr(search, "parse", counted)
    return parsed


@pytest.mark.parametrize("rules", ['place = "never"'])
async def test_costs_are_those_of_the_requester_of_a_call_or_of_its_parent(
    harness: Harness, ann: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sids = [await harness.place_call(name) for name in ("front desk", "front desk", "worker")]
    harness.clock.advance(4000)
    first = text_of(await ann.read("/overview"))
    call = harness.emulator.calls.all()[0]
    leg = call._replace(sid=f"CA{1:032x}", parent_call_sid=sids[2])
    others = [call._replace(sid=f"CA{number:032x}") for number in (2, 3, 4)]
    harness.emulator.calls.add(leg, *others)
    harness.clock.advance(61)
    parsed = count_parsed(monkeypatch)
    second = text_of(await ann.read("/overview"))
    assert "Requester Cost front desk 1.56 worker 0.78 " in first
    assert "Cost Outside calls-mcp 2.34 " in second
    assert "front desk 1.56 " in second
    assert "worker 1.56 " in second
    assert parsed == []


async def test_without_an_audit_database_no_cost_has_a_requester(tmp_path: Path) -> None:
    settings = {"calls_mcp_audit_database": "stderr:"}
    async with open_harness(tmp_path, 'place = "never"', **settings) as harness:
        await harness.place_call()
        harness.clock.advance(4000)
        async with sign_in(harness.console) as ann:
            text = text_of(await ann.read("/overview"))
    assert "Country Cost US 0.78" in text
    assert "Cost by requester None today." in text


async def test_only_new_records_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = count_parsed(monkeypatch)
    async with open_harness(tmp_path, 'place = "never"\ndelete = "deny"') as harness:
        async with harness.connect() as agent, sign_in(harness.console) as ann:
            for new, total in ((20, 20), (2, 22)):
                for _ in range(new):
                    await agent.call("delete_call", sid=f"CA{'0' * 32}")
                harness.clock.advance(61)
                parsed.clear()
                assert f"confirm.delete {total}" in text_of(await ann.read("/overview"))
                assert len(parsed) == new
        harness.clock.advance(86_400)
        async with sign_in(harness.console) as ann:
            assert "confirm.delete" not in text_of(await ann.read("/overview"))


async def test_void_decisions_are_ignored_and_undecided_requests_expire(
    harness: Harness, ann: WebClient
) -> None:
    approvals = harness.console.approvals
    assert approvals
    await harness.request_call()
    await harness.request_call(timeout=9)
    first, _second = await approvals.pending()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(approvals.decide, first, approve=True, by="ann"))
        tasks.start_soon(partial(approvals.decide, first, approve=False, by="bob"))
    decided = await approvals.find(first.identifier)
    assert decided
    assert decided.decision
    harness.clock.advance(901)
    text = text_of(await ann.read("/overview"))
    accepted = int(decided.decision.is_approval)
    assert f"Approved {accepted} Denied {1 - accepted} Expired 1 Withdrawn 0 Pending 0" in text


def test_labels_of_charts_are_escaped() -> None:
    picture = bars('"><script>', [("<script>alert(1)</script>", 3), ("& \u202emore", 1)])
    assert "<script>" not in picture
    assert "\u202e" not in picture
    assert "&lt;script&gt;" in picture


def test_columns_are_stacked() -> None:
    picture = columns("Calls", ["08", "09"], [("live", [1, 0]), ("completed", [2, 0])])
    first, *others = re.findall(
        'part-([0-9])" x="([0-9]+)" y="([0-9.]+)".*? height="([0-9.]+)"', picture
    )
    assert first == ("1", "1", "0.0", "33.3")  # 100 is three calls
    assert others == [("2", "1", "33.3", "66.7")]
    assert columns("Calls", ["08"], [("live", [0]), ("completed", [0])]) == ""


def test_a_credit_is_listed_but_has_no_bar() -> None:
    costs = {("DE", "EUR"): Decimal(2), ("US", "USD"): Decimal("-0.5")}
    for some, name in ((costs, "US USD"), ({("US", "USD"): Decimal("-0.5")}, "US")):
        chart = costs_chart("country", some)
        assert (name, "-0.50") in chart.rows
        assert "US" not in chart.picture


def test_a_single_currency_is_in_the_title_of_the_chart() -> None:
    chart = costs_chart("country", {("DE", "EUR"): Decimal(2), ("", "EUR"): Decimal(1)})
    assert chart.title == "Cost by country (EUR)"
    assert "<span>DE</span>" in chart.picture
    mixed = costs_chart("country", {("DE", "EUR"): Decimal(2), ("US", "USD"): Decimal(1)})
    assert mixed.title == "Cost by country"
    assert "<span>DE EUR</span>" in mixed.picture


@pytest.mark.parametrize("largest", [1, 5, 6, 8, 19, 52, 999, 12345])
def test_the_ticks_of_counts_are_whole_numbers(largest: int) -> None:
    for picture in (bars("Calls", [("a", largest)]), columns("Calls", ["a"], [("b", [largest])])):
        assert not re.search(r">[0-9,]+\.[0-9]+</span>", picture)
