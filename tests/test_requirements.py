"""Each security requirement is held by tests, and so is each answer of SECURITY.md."""

import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
SOURCES = "\n".join(path.read_text("utf-8") for path in TESTS.rglob("test_*.py"))
SECURITY = (ROOT / "SECURITY.md").read_text("utf-8")
REQUIREMENTS = range(1, 45)
THREATS = (
    "token passthrough",
    "dns rebinding",
    "confirmation replay",
    "confirmation swap",
    "confirmation forgery",
    "state hijack between principals",
    "prompt injection through call data",
    "ssrf through callback urls",
    "path injection through sids",
    "log leaks",
    "resource exhaustion",
)


def threats() -> Iterator[str]:
    return (line for line in SECURITY.splitlines() if line.startswith("| **"))


def test_every_requirement_has_a_test_that_is_marked_with_it() -> None:
    marks = re.findall(r"^@pytest\.mark\.requirement\((.+)\)$", SOURCES, re.MULTILINE)
    marked = {int(number) for mark in marks for number in re.findall(r'"([0-9]{2})"', mark)}
    assert marked == {*REQUIREMENTS}


def test_every_threat_is_on_the_page() -> None:
    told = " ".join(row.split("|")[1].lower() for row in threats())
    assert [threat for threat in THREATS if threat not in told] == []


def test_every_answer_on_the_page_names_tests_that_exist() -> None:
    defined = {*re.findall(r"^(?:async )?def (test_\w+)\(", SOURCES, re.MULTILINE)}
    for row in threats():
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert {*named} <= defined


def test_the_pages_say_that_a_model_can_confirm_by_token_without_its_user() -> None:
    for page in (SECURITY, (ROOT / "README.md").read_text("utf-8")):
        assert "model can complete this path by itself" in " ".join(page.split())
