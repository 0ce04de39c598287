"""SECURITY.md: each threat has its answer, and each answer tests that there are."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "SECURITY.md").read_text("utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| **")]
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


def test_every_threat_is_on_the_page() -> None:
    told = [row.partition("|")[2].lower() for row in ROWS]
    assert [threat for threat in THREATS if not any(threat in row for row in told)] == []


def test_every_answer_is_held_by_tests_that_there_are() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in TESTS.rglob("test_*.py"))
    defined = {*re.findall(r"^(?:async )?def (test_\w+)\(", sources, re.MULTILINE)}
    for row in ROWS:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert [name for name in named if name not in defined] == []
