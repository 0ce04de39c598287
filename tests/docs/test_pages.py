"""The docs are up to date, and their links, settings and commands exist."""

import re
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

from calls_mcp.cli.main import main
from calls_mcp.emulator import SCRIPTS
from calls_mcp.server.prompts import load_prompts
from calls_mcp.settings import Settings
from tests.docs.generated import pages
from tests.docs.pages import COLUMNS, PAGES, README, ROOT, spans

TEXTS = {page: page.read_text("utf-8") for page in PAGES}
LARGEST = 300_000  # bytes of a picture


def page(name: str) -> str:
    return TEXTS[ROOT / "docs" / f"{name}.md"]


@pytest.mark.parametrize("file", pages(), ids=lambda file: file.name)
def test_generated_parts_are_up_to_date(file: Path) -> None:
    assert pages()[file] == TEXTS[file], "run python -m tests.generate"


def test_every_scripted_number_and_prompt_is_documented() -> None:
    assert all(f"`{number}`" in page("emulator") for number in SCRIPTS)
    assert all(f"`{name}`" in page("tools") for name in load_prompts())


def test_install_commands_name_extras_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert "calls-mcp" in project["scripts"]
    assert "'.[dev]'" in TEXTS[README]
    named = re.findall(r"(?:calls-mcp|\.)\[([a-z,]+)\]", " ".join(TEXTS.values()))
    assert {"dev", *",".join(named).split(",")} <= {*project["optional-dependencies"]}


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_links_have_targets(file: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)]*)\)", TEXTS[file])
    assert links
    for link in links:
        name, _, heading = link.partition("#")
        target = file.parent / name if name else file
        assert target.exists(), link
        assert not heading or heading in _anchors(target), link


@pytest.mark.parametrize("file", sorted({*PAGES, *ROOT.glob("*.md")}), ids=lambda file: file.name)
def test_lines_are_short(file: Path) -> None:
    prose = re.sub(r"(?ms)^ *```.*?^ *```", "", file.read_text("utf-8"))
    lines = (line for line in prose.splitlines() if not line.startswith(("|", "- [")))
    assert not [line for line in lines if len(line) > COLUMNS]


def test_every_page_is_linked_from_the_readme() -> None:
    assert all(f"(docs/{file.name})" in TEXTS[README] for file in PAGES if file != README)


def test_every_picture_is_shown_and_small() -> None:
    shown = {
        (file.parent / link).resolve()
        for file, text in TEXTS.items()
        for link in re.findall(r'(?:!\[[^]]+\]\(|(?:src|srcset)=")([^)"]+)', text)
    }
    pictures = {*(ROOT / "docs" / "images").iterdir()}
    assert pictures == shown
    assert all(picture.stat().st_size <= LARGEST for picture in pictures)


@pytest.mark.parametrize("name", ["docs/design.md", "CONTRIBUTING.md"])
def test_every_file_that_a_guide_names_exists(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    named = {*re.findall(r"`([\w./-]+(?:/|\.(?:py|toml|html|json|md)))`", text)}
    assert len(named) > 20
    places = (ROOT, ROOT / "calls_mcp", ROOT / "calls_mcp" / "console", ROOT / "calls_mcp" / "cli")
    missing = [file for file in named if not any((place / file).exists() for place in places)]
    assert not missing


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_setting_on_a_page_exists(file: Path) -> None:
    known = Settings.variables().keys()
    named = {*re.findall(r"\b(?:CALLS_MCP|TWILIO)_[A-Z_]*[A-Z]\b", TEXTS[file])}
    unknown = {"CALLS_MCP_TIMOUT", "CALLS_MCP_AUDIT_FILE"}  # a typo as an example; a removed one
    families = {"CALLS_MCP_HTTP"}
    assert named - unknown - families <= known


COMMANDS = sorted(
    {
        span
        for text in TEXTS.values()
        for span in spans(text)
        if span.startswith("calls-mcp ") and not span.endswith(":")
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_inline_command_exists(command: str) -> None:
    words = command.split()[1:]
    names = [word for word in words if re.fullmatch("[a-z][a-z-]*", word)]
    help_text = _help(*names[:2]) or _help(*names[:1])
    assert help_text, command
    for option in (word for word in words if word.startswith("--")):
        assert option.partition("=")[0] in help_text, command


@cache
def _help(*command: str) -> str:
    """Return the help of a command, "" if it does not exist."""
    output = StringIO()
    with redirect_stdout(output), redirect_stderr(StringIO()), pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    return output.getvalue() if ended.value.code == 0 else ""


def _anchors(file: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.*)$", file.read_text("utf-8"))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
