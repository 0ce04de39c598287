"""Debian's Chromium, driven by Playwright, and axe-core: for whatever is seen in a browser."""

import shutil
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path

import pytest
from playwright import async_api, sync_api

AUDIT = """
axe.run(document, {iframes: false, preload: false, resultTypes: ["violations"]})
  .then(({violations}) => violations.map(({id, nodes}) => `${id}: ${nodes[0].html}`))
"""
"""What axe-core finds wrong with a page that has its source: a line for each fault."""
_AXE = Path(sys.prefix) / "axe" / "node_modules" / "axe-core" / "axe.min.js"
# No sandbox of Chromium's, for in a container there is often none; the pages are our own.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def open_browser() -> Generator[sync_api.Browser]:
    """A browser for tests that wait by themselves; without Chromium they are skipped."""
    chromium = _chromium()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield browser
        browser.close()


@asynccontextmanager
async def open_async_browser() -> AsyncGenerator[async_api.Browser]:
    """A browser for tests in an event loop; without Chromium they are skipped."""
    chromium = _chromium()
    async with async_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield browser
        await browser.close()


@cache
def axe() -> str:
    """The source of axe-core; without it, what needs it is skipped."""
    if not _AXE.is_file():
        pytest.skip("no axe-core: npm install --prefix .venv/axe axe-core")
    return _AXE.read_text("utf-8")


def _chromium() -> str:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    return chromium
