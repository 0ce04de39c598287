"""Run every code block in the README and in `docs/`."""

import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, Block, blocks
from tests.docs.runner import ELSEWHERE, MAKING, PageRunner

PICTURES = {"design.md": 1}
"""The number of diagrams, which are `text` blocks, in each page."""


def _uses_curl(page: Path) -> bool:
    return "curl " in page.read_text("utf-8")


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the commands are for bash")


@pytest.mark.process
@pytest.mark.timeout(300)  # some pages start twenty programs
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page, id=page.name, marks=[pytest.mark.needs(tool="curl")] if _uses_curl(page) else []
        )
        for page in PAGES
    ],
)
def test_the_blocks_of_a_page_work(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    runner = PageRunner(folder)
    shown = runnable(page)
    try:
        if shown and not any(MAKING in block.text for block in shown):
            runner.install()  # the page links to the quickstart instead
        for block in shown:
            runner.follow(block)
    finally:
        runner.end()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_with_commands_says_how_to_install_them(page: Path) -> None:
    commands = [block.text for block in runnable(page) if block.language in ("sh", "console")]
    if commands and not any(MAKING in text for text in commands):
        assert "](quickstart.md#install)" in page.read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_only_diagrams_are_not_run(page: Path) -> None:
    diagrams = [block.place for block in blocks(page) if block.language == "text"]
    assert len(diagrams) == PICTURES.get(page.name, 0), diagrams


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_file_in_a_page_is_used_by_a_later_block(page: Path) -> None:
    shown = runnable(page)
    for number, block in enumerate(shown):
        if block.language in ("python", "toml"):
            below = " ".join(later.text for later in shown[number + 1 :])
            assert Path(block.name).stem in below, block.place


def test_commands_that_are_run_elsewhere_are_in_the_pages() -> None:
    commands = [block.text for page in PAGES for block in blocks(page) if block.language == "sh"]
    lines = [line for text in commands for line in text.splitlines()]
    for beginning in ELSEWHERE:
        assert any(line.startswith(beginning) for line in lines), beginning


WRONG = [
    Block("sh", "", "calls-mcp polcy check", "here"),
    Block("sh", "", "false\ntrue", "here"),
    Block("sh", "serves", "calls-mcp emulator --port 70000", "here"),
    Block("console", "", "$ echo 1\n2\n", "here"),
    Block("console", "", "$ echo 1\n", "here"),
    Block("json", "", '{"mcpServers": {"calls": {"command": "other"}}}', "here"),
    Block("python", "", "print(1)", "here"),
    Block("", "", "who am I?", "here"),
]
NOT_INSTALLED = [
    "calls-mcp --version",  # before the environment is activated
    ".venv/bin/python -c 'import twilio'",  # not a dependency
    ".venv/bin/python -c 'import opentelemetry.sdk'",  # a dependency of an extra
    ".venv/bin/pip install -q no-such-package",
]


@pytest.mark.process
def test_a_wrong_block_or_one_that_uses_what_is_not_installed_fails(tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    runner = PageRunner(folder)
    runner.install()
    missing = [Block("sh", "", command, "here") for command in NOT_INSTALLED]
    assert [block for block in missing if not _fails(runner, block)] == []
    runner.follow(Block("sh", "", ". .venv/bin/activate\ncalls-mcp --version", "before"))
    assert [block for block in WRONG if not _fails(runner, block)] == []
    for server in runner.servers:  # none is listening
        server.communicate()


def _fails(runner: PageRunner, block: Block) -> bool:
    try:
        runner.follow(block)
    except AssertionError:
        return True
    return False


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language != "text"]
