"""Every security requirement has a test, and so has every threat in SECURITY.md."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def threats() -> Iterator[tuple[str, str]]:
    """Return the title and the text of each threat."""
    section = SECURITY.split("\n## Threats\n")[1].split("\n## ")[0]
    for part in section.split("\n### ")[1:]:
        title, _, text = part.partition("\n")
        yield title, text


def test_every_requirement_has_a_marked_test() -> None:
    marks = re.findall(r"^@pytest\.mark\.requirement\((.+)\)$", SOURCES, re.MULTILINE)
    marked = {int(number) for mark in marks for number in re.findall(r'"([0-9]{2})"', mark)}
    assert marked == {*REQUIREMENTS}


def test_the_page_describes_every_threat() -> None:
    titles = " ".join(title.lower() for title, _ in threats())
    assert [threat for threat in THREATS if threat not in titles] == []


@pytest.mark.parametrize("title", [title for title, _ in threats()])
def test_a_threat_has_an_answer_and_links_to_its_tests(title: str) -> None:
    text = dict(threats())[title]
    for part in ("**What:**", "**Defense:**", "**Test:**"):
        assert text.count(part) == 1, title
    links = re.findall(r"\[`(test_\w+)`\]\((.+?)\)", text)
    assert links
    assert len(links) == text.count("`test_")
    for name, file in links:
        source = (ROOT / file).read_text("utf-8")
        assert re.search(rf"(?m)^(?:async )?def {name}\(", source), f"{file} has no {name}"


def test_the_pages_say_that_a_model_can_confirm_by_token_without_its_user() -> None:
    for page in (SECURITY, (ROOT / "README.md").read_text("utf-8")):
        assert "model can complete this path by itself" in " ".join(page.split())
