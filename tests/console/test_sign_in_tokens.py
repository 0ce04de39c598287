"""Coming in by a bearer token of the service's."""

import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.responses import Response

from tests.console.desk import Browser, Desk, open_desk, visible
from tests.http.issuer import AUDIENCE, Issuer, issuing
from tests.http.site import EVERYTHING, entry, write
from tests.records import lines_in

pytestmark = pytest.mark.anyio

_APPROVAL = re.compile(r'href="(/approvals/[0-9a-f]+)"')


def principals(file: Path, *more: str) -> Path:
    """A file with tokens of two operators', and of an agent's."""
    return write(
        file,
        entry("anns-token", "ann", "calls:approve"),
        entry("bobs-token", "bob", "calls:approve"),
        entry("agents-token", "agent", *EVERYTHING),
        *more,
    )


@asynccontextmanager
async def by_tokens(folder: Path, rules: str = 'place = "operator"') -> AsyncGenerator[Desk]:
    """A desk to which nobody comes but by a token."""
    file = principals(folder / "principals.toml")
    settings = {"calls_mcp_auth": "tokens", "calls_mcp_principals": file}
    async with open_desk(folder, rules, **settings) as desk:
        yield desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with by_tokens(tmp_path) as desk:
        yield desk


async def asked(desk: Desk, name: str = "agent") -> str:
    """The path of what somebody has asked the operator for."""
    return f"/approvals/{await desk.ask(name)}"


async def read_with(browser: Browser, token: str, path: str = "/approvals") -> httpx.Response:
    return await browser.get(path, {"Authorization": f"Bearer {token}"})


async def test_an_operator_comes_in_by_a_token_and_decides_in_its_principals_name(
    desk: Desk,
) -> None:
    wanted = await asked(desk)
    async with desk.stranger() as browser:
        shown = (await browser.get(wanted)).text
        assert 'type="password" autocomplete="off"' in shown
        assert "Your link" not in shown
        entered = await browser.show("anns-token ", wanted)
        assert (entered.status_code, entered.headers["location"]) == (303, wanted)
        assert (await browser.submit(wanted, wanted, decision="approve")).status_code == 303
    assert '"decided_by":"ann"' in "".join(lines_in(desk.record))


async def test_who_came_by_a_token_lets_nobody_else_in(desk: Desk) -> None:
    async with desk.holder("anns-token") as browser:
        assert "/invitations" not in await browser.read("/approvals")
        assert (await browser.get("/invitations")).status_code == 403
        refused = await browser.submit("/approvals", "/invitations", name="eve")
        assert refused.status_code == 403
        assert "?link=" not in refused.text


@pytest.mark.parametrize(
    ("token", "status"),
    [("agents-token", 403), ("anns-toke", 401), ("", 401), ("é", 401)],
)
async def test_any_other_token_lets_nobody_in_and_is_not_repeated(
    desk: Desk, token: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with desk.stranger() as browser:
        refused = await browser.show(token, "/policy")
        assert refused.status_code == status
        assert "set-cookie" not in refused.headers
        assert 'name="next" value="/policy"' in refused.text
        assert (await browser.get("/approvals")).status_code == 401
    assert "The console let nobody in, from 127.0.0.1" in caplog.text
    assert not token or token not in refused.text + caplog.text


async def test_a_session_ends_as_soon_as_its_token_is_struck_out(
    desk: Desk, tmp_path: Path
) -> None:
    async with desk.holder("anns-token") as browser:
        token = await browser.csrf()
        write(tmp_path / "principals.toml", entry("bobs-token", "bob", "calls:approve"))
        assert (await browser.get("/approvals")).status_code == 401
        assert (await browser.post("/sign-out", csrf=token)).status_code == 401
        principals(tmp_path / "principals.toml")
        assert (await browser.get("/approvals")).status_code == 401


async def test_an_open_page_is_told_no_more_once_the_token_is_struck_out(
    desk: Desk, tmp_path: Path
) -> None:
    async with desk.holder("anns-token") as browser, browser.news("approvals") as news:
        await anext(news)
        write(tmp_path / "principals.toml", entry("bobs-token", "bob", "calls:approve"))
        await asked(desk)
        with anyio.fail_after(20):
            assert [each async for each in news] == []


async def test_a_session_lasts_no_longer_than_its_token(tmp_path: Path) -> None:
    async with by_tokens(tmp_path) as desk:
        desk.rig.clock.advance(time.time() - desk.rig.clock())
        lasts = timedelta(hours=1)
        principals(
            tmp_path / "principals.toml", entry("short", "cyd", "calls:approve", lasts=lasts)
        )
        async with desk.holder("short") as browser:
            desk.rig.clock.advance(3500)
            assert "cyd" in await browser.read("/approvals")
            desk.rig.clock.advance(101)
            assert (await browser.get("/approvals")).status_code == 401


async def test_a_program_reads_by_a_token_in_the_head_of_its_requests(desk: Desk) -> None:
    await asked(desk)
    async with desk.stranger() as script:
        assert "1 change waits" in visible((await read_with(script, "anns-token")).text)
        export = await read_with(script, "anns-token", "/audit/export.jsonl")
        assert '"decision":"asked"' in export.text
        assert "set-cookie" not in export.headers
        assert (await script.get("/approvals")).status_code == 401


async def test_a_program_decides_nothing(desk: Desk) -> None:
    wanted = await asked(desk)
    async with desk.holder("bobs-token") as browser:
        fields = {"csrf": await browser.csrf(), "decision": "approve"}
        head = {"Authorization": "Bearer anns-token"}
        assert (await browser.post(wanted, head, **fields)).status_code == 405
        assert "Approve" in await browser.read(wanted)


@pytest.mark.parametrize(
    ("token", "status", "error"),
    [("nobodys", 401, "invalid_token"), ("agents-token", 403, "insufficient_scope")],
)
async def test_a_bad_token_in_the_head_counts_even_beside_a_good_cookie(
    desk: Desk, token: str, status: int, error: str
) -> None:
    async with desk.holder("bobs-token") as browser:
        refused = await read_with(browser, token)
    assert refused.status_code == status
    assert refused.headers["www-authenticate"] == f'Bearer error="{error}"'


async def test_after_many_bad_tokens_from_an_address_none_is_tried_for_a_while(desk: Desk) -> None:
    async with desk.holder("bobs-token") as inside, desk.stranger() as browser:
        for each in range(21):
            assert (await browser.show(f"guess-{each}")).status_code == 401
        late = await browser.show("anns-token")
        assert late.status_code == 429
        assert 0 < int(late.headers["retry-after"]) <= 60
        assert (await read_with(browser, "anns-token")).status_code == 429
        assert "bob" in await inside.read("/approvals")
        desk.rig.clock.advance(61)
        assert (await browser.show("anns-token")).status_code == 303


async def test_nobody_approves_what_they_have_asked_for_themselves(desk: Desk) -> None:
    own = await asked(desk, "ann")
    async with desk.holder("anns-token") as ann, desk.holder("bobs-token") as bob:
        shown = await ann.read(own)
        assert "You have asked for this yourself" in shown
        assert 'value="approve"' not in shown
        assert 'value="approve"' not in await ann.read("/approvals")
        refused = await ann.submit(own, own, decision="approve")
        assert refused.status_code == 403
        assert (await bob.submit(own, own, decision="approve")).status_code == 303
    assert '"decided_by":"bob"' in "".join(lines_in(desk.record))


async def test_where_any_human_will_do_it_can_be_who_has_asked(tmp_path: Path) -> None:
    async with by_tokens(tmp_path, 'place = "require_human"') as desk:
        own = await asked(desk, "ann")
        async with desk.holder("anns-token") as ann:
            assert (await ann.submit(own, own, decision="approve")).status_code == 303


async def test_what_one_has_asked_for_can_be_taken_back(desk: Desk) -> None:
    own = await asked(desk, "ann")
    async with desk.holder("anns-token") as ann:
        assert (await ann.submit(own, own, decision="deny")).status_code == 303
        assert "Denied by ann" in visible(await ann.read(own))


async def test_a_hang_up_that_must_be_approved_waits_for_somebody_else(tmp_path: Path) -> None:
    async with by_tokens(tmp_path, 'place = "never"\nhang_up = "operator"') as desk:
        sid = await desk.place()
        path = f"/calls/{sid}/hang-up"
        async with desk.holder("anns-token") as ann, desk.holder("bobs-token") as bob:
            waits = await ann.submit(path, path)
            assert waits.status_code == 409
            approval = _APPROVAL.search(waits.text)
            assert approval
            with anyio.fail_after(desk.rig.runtime.settings.guard.operator_wait / 2):
                assert approval[1] in (await ann.submit(path, path)).text
            assert len(desk.rig.changes) == 1
            case = approval[1]
            assert (await ann.submit(case, case, decision="approve")).status_code == 403
            assert (await bob.submit(case, case, decision="approve")).status_code == 303
            assert (await ann.submit(path, path)).status_code == 303
        assert len(desk.rig.changes) == 2


# Access tokens of an issuer


@asynccontextmanager
async def by_oauth(folder: Path, issuer: Issuer) -> AsyncGenerator[Desk]:
    settings = {
        "calls_mcp_auth": "oauth",
        "calls_mcp_oauth_issuer": issuer.url,
        "calls_mcp_resource_url": AUDIENCE,
    }
    async with open_desk(folder, **settings) as desk:
        yield desk


async def test_an_issuers_token_lets_in_with_the_one_scope_and_no_tools(tmp_path: Path) -> None:
    async with issuing() as issuer, by_oauth(tmp_path, issuer) as desk, desk.stranger() as browser:
        both = issuer.token(claims={"scope": "calls:read calls:approve"})
        refused = await browser.show(both)
        assert refused.status_code == 403
        assert "for tools as well" in visible(refused.text)
        ours = issuer.token(claims={"scope": "openid calls:approve"})
        assert (await browser.show(ours)).status_code == 303
        assert "alice" in await browser.read("/approvals")


async def test_while_the_issuer_is_away_it_is_told_to_come_again(tmp_path: Path) -> None:
    async with issuing() as issuer, by_oauth(tmp_path, issuer) as desk, desk.stranger() as browser:
        issuer.failure = Response("away", 500)
        later = await browser.show(issuer.token(claims={"scope": "calls:approve"}))
    assert later.status_code == 503
    assert later.headers["retry-after"] == "10"
