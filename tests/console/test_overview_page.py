"""The figures on the console's pages."""

from functools import partial
from pathlib import Path

import anyio
import pytest

from calls_mcp.audit import search
from calls_mcp.audit.records import Fields, parse
from calls_mcp.console.charts import bars, columns
from tests.console.desk import open_desk, visible
from tests.rig import placing

pytestmark = pytest.mark.anyio


async def test_the_last_day_is_told_in_figures(tmp_path: Path) -> None:
    rules = 'place = "never"\nhang_up = "operator"\ndelete = "deny"'
    async with open_desk(tmp_path, rules) as desk, desk.operator() as browser:
        async with desk.rig.connect() as agent:
            sids = [(await agent.call("create_call", **placing()))["call"]["sid"] for _ in "123"]
            desk.rig.clock.advance(30)
            for sid in sids[:2]:
                asked = await agent.call("update_call", sid=sid, status="completed")
                approval = asked["confirmation"]["approval"]
                decision = "approve" if sid == sids[0] else "deny"
                await browser.submit("/approvals", f"/approvals/{approval}", decision=decision)
                await agent.call("update_call", sid=sid, status="completed")
            await agent.call("delete_call", sid=sids[0])
        page = await browser.read("/overview")
        desk.rig.clock.advance(90_000)  # which no session outlasts
        async with desk.operator() as later:
            assert ": 0 calls." in (none := visible(await later.read("/overview")))
            assert "asked 0" in none
    told = visible(page)
    assert ": 3 calls." in told
    assert "Hour (UTC) completed in-progress 2023-11-14 22 1 2" in told
    assert "10 to 59 s 1" in told
    assert "asked 2 accepted 1 declined 1 lapsed 0" in told
    assert "confirm.delete 1" in told
    assert page.count('<svg role="img" aria-label=') >= 4
    assert "style=" not in page


async def test_only_the_policys_denials_count_as_denied_by_a_rule(tmp_path: Path) -> None:
    rules = 'place = "never"\ndelete = "deny"'
    async with (
        open_desk(tmp_path, rules) as desk,
        desk.rig.connect() as agent,
        desk.operator() as browser,
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
        told = visible(await browser.read("/overview"))
    assert "Denied by a rule 1 " in told
    assert "confirm.delete 1" in told
    assert "not_found" not in told
    assert "invalid_confirmation" not in told


async def test_what_was_counted_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = list[bytes]()

    def counted(line: bytes) -> Fields | None:
        parsed.append(line)
        return parse(line)

    monkeypatch.setattr(search, "parse", counted)
    async with open_desk(tmp_path, 'place = "never"\ndelete = "deny"') as desk:
        async with desk.rig.connect() as agent, desk.operator() as browser:

            async def deny(times: int) -> tuple[str, int]:
                for _ in range(times):
                    await agent.call("delete_call", sid=f"CA{'0' * 32}")
                desk.rig.clock.advance(61)
                parsed.clear()
                return visible(await browser.read("/overview")), len(parsed)

            told, count = await deny(20)
            assert "confirm.delete 20" in told
            assert count == 20
            told, count = await deny(2)
            assert "confirm.delete 22" in told
            assert count == 2
        desk.rig.clock.advance(86_400)
        async with desk.operator() as browser:
            assert "confirm.delete" not in visible(await browser.read("/overview"))


def test_what_strangers_wrote_is_text_in_charts_too() -> None:
    picture = bars('"><script>', [("<script>alert(1)</script>", 3), ("& more", 1)])
    assert "<script>" not in picture
    assert "&lt;script&gt;" in picture


async def test_what_did_not_count_or_nobody_decided_is_told_as_that(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk, desk.operator() as browser:
        approvals = desk.console.house.approvals
        assert approvals
        async with desk.rig.connect() as agent:
            await agent.call("create_call", **placing())
            await agent.call("create_call", **placing(timeout=9))
        first, _second = await approvals.pending()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(approvals.decide, first, approve=True, by="ann"))
            tasks.start_soon(partial(approvals.decide, first, approve=False, by="bob"))
        decided = await approvals.find(first.identifier)
        assert decided
        assert decided.decision
        desk.rig.clock.advance(901)
        told = visible(await browser.read("/overview"))
    accepted = int(decided.decision.is_approval)
    assert f"asked 2 accepted {accepted} declined {1 - accepted} lapsed 1" in told


def test_a_column_has_its_parts_on_each_other() -> None:
    picture = columns("Calls", ["08", "09"], [("live", [1, 0]), ("completed", [2, 0])])
    live, completed = picture.split('class="series columns"')[1:]
    assert 'height="60.0"' in live  # of 100 for five
    assert 'height="40.0"' in completed
    assert columns("Calls", ["08"], [("live", [0]), ("completed", [0])]) == ""
