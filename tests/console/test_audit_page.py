"""Search, verification and export of the audit log."""

import csv
import io
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import anyio.lowlevel
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calls_mcp.audit import search, verification
from calls_mcp.audit.records import Fields, is_intact
from calls_mcp.audit.verification import verify
from calls_mcp.console.exports import csv_row
from tests.console.harness import Harness, WebClient, text_of
from tests.harness import User, decline, placing

pytestmark = pytest.mark.anyio

_SEQ = re.compile(r'<li [^>]*id="record-([0-9]+)"')
_CHANGE = '<ol class="timeline">'


@pytest.fixture
def rules() -> str:
    return 'place = "never"'


async def place(harness: Harness, count: int = 1, name: str = "tester") -> None:
    """Have an agent place calls, with two records each."""
    async with harness.connect(name=name) as agent:
        for _ in range(count):
            assert (await agent.call("create_call", **placing()))["outcome"] == "done"


async def count(client: WebClient, **filters: str) -> int:
    """The number of changes with a matching record."""
    html = await client.read(f"/audit?{urlencode(filters)}")
    return html.count(_CHANGE)


def tamper(harness: Harness, change: str) -> None:
    """Change record 3."""
    with closing(sqlite3.connect(harness.database)) as database, database:
        database.execute("DROP TRIGGER audit_stays")
        database.execute(f"UPDATE audit SET {change} WHERE seq = 3")  # noqa: S608


async def test_an_empty_log_is_explained(ann: WebClient) -> None:
    assert "No records yet" in text_of(await ann.read("/audit"))
    exported = await ann.get("/audit/export.jsonl")
    assert (exported.status_code, exported.content) == (200, b"")
    assert (await ann.get("/audit/export.xml")).status_code == 404


async def test_changes_are_paged_newest_first(harness: Harness, ann: WebClient) -> None:
    await place(harness, 60)
    pages = await ann.read_all("/audit")
    assert "120 records" in text_of(await ann.read("/audit?check=now"))
    numbers = [int(seq) for page in pages for seq in _SEQ.findall(page)]
    assert [page.count(_CHANGE) for page in pages] == [30, 30]
    assert numbers == [each for last in range(120, 0, -2) for each in (last - 1, last)]


async def test_changes_are_searched_and_filtered(harness: Harness, ann: WebClient) -> None:
    await place(harness, 1, "ann")
    await place(harness, 2, "bob")
    assert await count(ann) == 3
    assert await count(ann, principal="bob") == 2
    assert await count(ann, phase="before", principal="bob") == 2
    assert await count(ann, decision="allowed") == 3
    assert await count(ann, tool="delete_call") == 0
    assert await count(ann, text="BOB") == 2
    assert await count(ann, since="2023-11-14", until="2023-11-14") == 3
    assert await count(ann, since="2023-11-15") == 0
    assert await count(ann, until="2023-11-13") == 0


async def test_text_search_ignores_case(harness: Harness, ann: WebClient) -> None:
    await place(harness, 1, 'Jürgen "J" Groß \u212aÜ \U0001f600 C:\\x')
    await place(harness, 1, "another agent")
    texts = ["jürgen", "JÜRGEN", "GROSS", "groß", "ß", "Ü", '"J"', "kü", "\U0001f600", "c:\\x"]
    for text in texts:
        assert await count(ann, text=text) == 1, text
        exported = await ann.get(f"/audit/export.jsonl?{urlencode({'text': text})}")
        assert len(exported.content.splitlines()) == 2, text


async def test_text_search_matches_values_and_not_json_syntax(
    harness: Harness, ann: WebClient
) -> None:
    await place(harness, 1, "100% sure_ly")
    assert await count(ann, text="100% sure_ly") == 1
    assert await count(ann, text="1_0%") == 0
    assert await count(ann, text="•••05") == await count(ann, text="•••") == 1  # a masked number
    assert await count(ann, text="phase") == await count(ann, text='"place"') == 0
    assert await count(ann, text="twiml") == 1  # argument names are searched like values


async def test_an_unreadable_record_is_always_shown(harness: Harness, ann: WebClient) -> None:
    await place(harness, 2)
    tamper(harness, "body = x'ff' || body")
    for query in ("", "text=tester"):
        html = await ann.read(f"/audit?{query}")
        assert html.count(_CHANGE) == 3
        assert text_of(html).count("This record can't be read") == 1


async def test_a_search_is_limited_and_can_be_continued(
    harness: Harness, ann: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_FARTHEST", 7)
    await place(harness, 1, "bob")
    await place(harness, 8, "ann")
    pages = await ann.read_all("/audit?text=bob")
    assert [page.count(_CHANGE) for page in pages] == [0, 0, 1]
    assert "No matching records among the newest Older" in text_of(pages[0])


async def test_the_chain_is_verified(harness: Harness, ann: WebClient) -> None:
    await place(harness, 2)
    assert "All records are intact" in text_of(await ann.read("/audit?check=now"))
    tamper(harness, "body = replace(body, 'tester', 'someone')")
    text = text_of(await ann.read("/audit?check=now"))
    assert "The audit log was changed after it was written" in text
    assert "record 3: its hash does not match its content, so it was edited" in text
    assert text.count("Record edited") == 2  # of the record, and of its change


async def test_after_a_full_check_only_new_records_are_checked_for_an_hour(
    harness: Harness, ann: WebClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = list[bytes]()

    def counted(line: bytes, record: Fields) -> bool:
        checked.append(line)
        return is_intact(line, record)

    monkeypatch.setattr(verification, "is_intact", counted)
    for new, ahead, expected in ((3, 0, 6), (1, 60, 2), (0, 60, 0), (1, 3600, 10)):
        await place(harness, new)
        harness.clock.advance(ahead)
        checked.clear()
        await ann.read("/audit")
        while "Checking" in text_of(await ann.read("/audit")):
            await anyio.lowlevel.checkpoint()
        assert len(checked) == expected


async def test_an_edit_of_an_old_record_is_found_by_the_next_full_check(
    harness: Harness, ann: WebClient
) -> None:
    await place(harness, 2)
    assert "All records are intact" in text_of(await ann.read("/audit?check=now"))
    tamper(harness, "body = replace(body, 'tester', 'someone')")
    await place(harness)
    harness.clock.advance(3601)
    while "Checking" in (text := text_of(await ann.read("/audit"))) or "intact" in text:
        await anyio.lowlevel.checkpoint()
    assert "record 3: its hash does not match its content, so it was edited" in text


async def test_records_removed_from_the_end_are_noticed(harness: Harness, ann: WebClient) -> None:
    await place(harness, 2)
    assert "All records are intact" in text_of(await ann.read("/audit?check=now"))
    with closing(sqlite3.connect(harness.database)) as database, database:
        database.execute("DROP TRIGGER audit_keeps")
        database.execute("DELETE FROM audit WHERE seq > 2")
    for _ in range(2):
        await place(harness)
        text = text_of(await ann.read("/audit?check=now"))
        assert "records were removed from the end, or the log was rewritten" in text


async def test_a_change_is_one_line_that_unfolds_to_its_records(
    harness: Harness, ann: WebClient
) -> None:
    await place(harness)
    html = await ann.read("/audit")
    text = text_of(html)
    assert "Done tester asked to call +1•••05" in text
    assert "Call request sent to the API Record 1: for tester" in text
    assert "Call request accepted by the API Record 2: HTTP 201" in text
    assert "http status 201" in text
    assert "View the call" in text
    assert not re.search("None|True|False|[0-9a-f]{64}", html)


@pytest.mark.parametrize("rules", ['place = "operator"'], ids=[""])
async def test_a_change_says_who_decided_and_how_it_ended(harness: Harness, ann: WebClient) -> None:
    denied = await harness.request_call()
    assert "Requested tester asked to call +1•••05" in text_of(await ann.read("/audit"))
    await ann.decide(f"/approvals/{denied}", decision="deny", reason="not now")
    approved = await harness.request_call(time_limit=60)
    harness.clock.advance(10)  # without a heartbeat, so that the agent must retry
    await ann.decide(f"/approvals/{approved}", decision="approve")
    async with harness.connect() as agent:
        await agent.call("create_call", **placing(time_limit=60))
    text = text_of(await ann.read("/audit"))
    assert "Denied tester asked to call +1•••05 denied by ann: not now" in text
    assert "Done tester asked to call +1•••05 approved by ann" in text


@pytest.mark.parametrize("rules", ['place = "confirm"'], ids=[""])
async def test_a_change_that_the_user_declined_is_not_denied(
    harness: Harness, ann: WebClient
) -> None:
    async with harness.connect(user=User(decline)) as agent:
        await agent.call("create_call", **placing())
    text = text_of(await ann.read("/audit"))
    assert "Declined tester asked to call +1•••05 declined by the user" in text


async def test_a_refusal_by_the_policy_names_its_rule(harness: Harness, ann: WebClient) -> None:
    async with harness.connect() as agent:
        await agent.call("create_call", **placing(record=True))
        await agent.call("delete_call", sid=f"CA{0:032x}")
    text = text_of(await ann.read("/audit"))
    assert "Policy denied tester asked to call +1•••05 rule caps.record" in text
    assert "tester asked to delete a call record rule" not in text


async def test_filters_have_the_words_of_the_results(ann: WebClient) -> None:
    html = await ann.read("/audit")
    for value, word in {
        "declined": "Declined",
        "denied": "Denied",
        "refused": "Refused",
        "before": "Sent",
    }.items():
        assert f'<option value="{value}">{word}</option>' in html


@pytest.mark.parametrize(
    "query", ["since=x", "until=9999-12-31", "until=2026-02-30", "decision=maybe", "phase=1"]
)
async def test_an_invalid_filter_is_explained(harness: Harness, ann: WebClient, query: str) -> None:
    await place(harness)
    for path in (f"/audit?{query}", f"/audit/export.csv?{query}"):
        response = await ann.get(path)
        assert response.status_code == 400
        assert ": use " in text_of(response.text)


async def test_exported_json_lines_can_be_verified(
    harness: Harness, ann: WebClient, tmp_path: Path
) -> None:
    await place(harness, 3)
    exported = await ann.get("/audit/export.jsonl")
    assert "attachment" in exported.headers["content-disposition"]
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(exported.content)
    assert verify(copy).is_intact
    assert verify(copy).records == 6
    part = await ann.get("/audit/export.jsonl?phase=after")
    assert [json.loads(line)["phase"] for line in part.text.splitlines()] == ["after"] * 3


async def test_exported_csv_contains_no_formula(harness: Harness, ann: WebClient) -> None:
    await place(harness, 1, '=HYPERLINK("http://evil.example")')
    exported = await ann.get("/audit/export.csv")
    assert exported.headers["content-type"] == "text/csv; charset=utf-8"
    first, _second = csv.DictReader(io.StringIO(exported.text))
    assert first["principal"] == '\'=HYPERLINK("http://evil.example")'
    assert first["seq"] == "1"
    assert first["decision"] == "allowed"


@given(st.text("=+-@;,|\t\r\n\"' \uff1da1"), st.text('=+-@;,|\t"a'))
@example("x;=1+1", 'x;"=1+1')
@example("x\t=1", "|@SUM(1)")
def test_a_spreadsheet_finds_no_formula_in_csv_whatever_its_separator(one: str, two: str) -> None:
    text = csv_row([one, two]).decode()
    for separator in ",;\t|":
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
            lines = io.StringIO(text, newline="")
            for row in csv.reader(lines, delimiter=separator, quoting=quoting):
                starts = [cell.strip('"\r\n\t ')[:1] for cell in row]
                assert not {*starts} & {*"=+-@"}


def test_numbers_in_csv_stay_numbers() -> None:
    assert csv_row([-5, 1.5, None, "a"]) == b"-5,1.5,,a\r\n"


async def test_an_invalid_position_is_refused(harness: Harness, ann: WebClient) -> None:
    await place(harness)
    for before in ("x", "-1", "9" * 30, "0" * 5000, "0" * 19 + "9" * 30):
        assert (await ann.get(f"/audit?before={before}")).status_code == 400
