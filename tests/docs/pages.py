"""The README and the pages in `docs/`, with their code blocks."""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
COLUMNS = 120
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: its language, the rest of its opening line, its text, its file and line."""

    language: str
    name: str
    text: str
    place: str


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page, in order."""
    return [
        Block(*_info(token.info), token.content, f"{page.name}:{(token.map or [0])[0] + 1}")
        for token in MarkdownIt("commonmark").parse(page.read_text("utf-8"))
        if token.type in ("fence", "code_block")
    ]


def spans(text: str) -> list[str]:
    """Return the inline code of a text, each on one line."""
    prose = re.sub(r"(?ms)^ *```.*?^ *```", "", text)
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`", prose)]


def _info(info: str) -> tuple[str, str]:
    language, _, name = info.partition(" ")
    return language, name.strip()
