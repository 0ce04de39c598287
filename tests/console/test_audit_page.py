"""The record on the console's pages."""

import csv
import io
import json
import re
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pytest

from calls_mcp.audit import search
from calls_mcp.audit.verification import verify
from tests.console.desk import Browser, Desk, open_desk, visible
from tests.rig import placing

pytestmark = pytest.mark.anyio


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    async with open_desk(tmp_path, 'place = "never"') as desk:
        yield desk


async def place(desk: Desk, count: int = 1, name: str = "tester") -> None:
    async with desk.rig.connect(name=name) as agent:
        for _ in range(count):
            assert (await agent.call("create_call", **placing()))["outcome"] == "done"


async def test_there_may_be_no_record_yet(browser: Browser) -> None:
    assert "Nothing has been recorded yet" in visible(await browser.read("/audit"))
    exported = await browser.get("/audit/export.jsonl")
    assert (exported.status_code, exported.content) == (200, b"")
    assert (await browser.get("/audit/export.xml")).status_code == 404


async def test_records_are_shown_the_newest_first_and_paged(desk: Desk, browser: Browser) -> None:
    await place(desk, 60)
    first = await browser.read("/audit")
    numbers, path = list[str](), first
    while True:
        numbers += [
            row.partition("<")[0].strip() for row in path.split('scope="row" class="number">')[1:]
        ]
        _, found, rest = path.partition('<a href="/audit?before=')
        if not found:
            break
        path = await browser.read("/audit?before=" + rest.partition('"')[0])
    assert "120 records" in visible(await browser.read("/audit?check=now"))
    assert numbers == [str(number) for number in range(120, 0, -1)]


async def test_records_are_searched_and_filtered(desk: Desk, browser: Browser) -> None:
    await place(desk, 1, "ann")
    await place(desk, 2, "bob")

    async def count(query: str) -> int:
        return (await browser.read(f"/audit?{query}")).count('<th scope="row"')

    assert await count("") == 6
    assert await count("principal=bob") == 4
    assert await count("phase=before&principal=bob") == 2
    assert await count("decision=allowed") == 3
    assert await count("tool=delete_call") == 0
    assert await count("text=BOB") == 4
    assert await count("since=2023-11-14&until=2023-11-14") == 6
    assert await count("since=2023-11-15") == 0
    assert await count("until=2023-11-13") == 0


@pytest.mark.parametrize(
    "text", ["jürgen", "JÜRGEN", "GROSS", "groß", "ß", "Ü", '"J"', "k\u00fc", "\U0001f600", "c:\\x"]
)
async def test_a_text_is_found_as_it_is_read_whatever_its_case(
    desk: Desk, browser: Browser, text: str
) -> None:
    await place(desk, 1, 'Jürgen "J" Groß \u212aÜ \U0001f600 C:\\x')
    await place(desk, 1, "somebody else")
    page = await browser.read(f"/audit?{urlencode({'text': text})}")
    assert page.count('<th scope="row"') == 2
    exported = await browser.get(f"/audit/export.jsonl?{urlencode({'text': text})}")
    assert len(exported.content.splitlines()) == 2


async def test_a_text_is_looked_for_in_what_records_say_and_not_in_their_form(
    desk: Desk, browser: Browser
) -> None:
    await place(desk, 1, "100% sure_ly")

    async def count(text: str) -> int:
        page = await browser.read(f"/audit?{urlencode({'text': text})}")
        return page.count('<th scope="row"')

    assert await count("100% sure_ly") == 2
    assert await count("1_0%") == 0
    assert await count("•••05") == await count("•••") == 1  # a number that is masked
    assert await count("phase") == await count('"place"') == 0
    assert await count("twiml") == 1  # an argument's name is something that was said


async def test_what_can_not_be_read_is_shown_as_such(desk: Desk, browser: Browser) -> None:
    await place(desk, 2)
    tamper(desk, "body = x'ff' || body")
    for query in ("", "text=tester"):
        page = await browser.read(f"/audit?{query}")
        assert page.count('<th scope="row"') == 4
        assert page.count("not as written") == 1


async def test_a_search_goes_so_far_and_can_go_on(
    desk: Desk, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_FARTHEST", 7)
    await place(desk, 1, "bob")
    await place(desk, 8, "ann")
    pages = [await browser.read("/audit?text=bob")]
    while found := re.search(r'<a href="([^"]+)" rel="next">', pages[-1]):
        pages.append(await browser.read(unescape(found[1])))
    assert [page.count('<th scope="row"') for page in pages] == [0, 0, 2]
    assert "No record is like that among the newest" in visible(pages[0])


async def test_the_chain_is_verified_on_sight(desk: Desk, browser: Browser) -> None:
    await place(desk, 2)
    assert "All records are intact" in visible(await browser.read("/audit?check=now"))
    tamper(desk, "body = replace(body, 'tester', 'nobody')")
    told = visible(await browser.read("/audit?check=now"))
    assert "The audit log was changed after it was written" in told
    assert "record 3: it was edited" in told
    assert told.count("not as written") == 1


def tamper(desk: Desk, change: str) -> None:
    """Change record 3."""
    with closing(sqlite3.connect(desk.record)) as database, database:
        database.execute("DROP TRIGGER audit_stays")
        database.execute(f"UPDATE audit SET {change} WHERE seq = 3")  # noqa: S608


async def test_the_record_as_json_lines_can_be_verified_elsewhere(
    desk: Desk, browser: Browser, tmp_path: Path
) -> None:
    await place(desk, 3)
    exported = await browser.get("/audit/export.jsonl")
    part = await browser.get("/audit/export.jsonl?phase=after")
    assert "attachment" in exported.headers["content-disposition"]
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(exported.content)
    assert verify(copy).is_intact
    assert verify(copy).records == 6
    assert [json.loads(line)["phase"] for line in part.text.splitlines()] == ["after"] * 3


async def test_no_cell_is_taken_for_a_formula(desk: Desk, browser: Browser) -> None:
    await place(desk, 1, '=HYPERLINK("http://evil.example")')
    exported = await browser.get("/audit/export.csv")
    assert exported.headers["content-type"] == "text/csv; charset=utf-8"
    first, _second = csv.DictReader(io.StringIO(exported.text))
    assert first["principal"] == '\'=HYPERLINK("http://evil.example")'
    assert first["seq"] == "1"
    assert first["decision"] == "allowed"


@pytest.mark.parametrize("before", ["x", "-1", "9" * 30])
async def test_a_page_that_can_not_be_is_refused(desk: Desk, browser: Browser, before: str) -> None:
    await place(desk)
    assert (await browser.get(f"/audit?before={before}")).status_code == 400
