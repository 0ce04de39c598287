"""Debian's Chromium, driven by Playwright, and axe-core: for whatever is seen in a browser."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import cache

from playwright import async_api, sync_api

from tests.optional import AXE, program

AUDIT = """
axe.run(document, {iframes: false, preload: false, resultTypes: ["violations"]})
  .then(({violations}) => violations.map(({id, nodes}) => `${id}: ${nodes[0].html}`))
"""
"""What axe-core finds wrong with a page that has its source: a line for each fault."""
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
    """A browser for tests that wait by themselves."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=_FLAGS)
        yield browser
        browser.close()


@asynccontextmanager
async def open_async_browser() -> AsyncGenerator[async_api.Browser]:
    """A browser for tests in an event loop."""
    async with async_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program("chromium"), args=_FLAGS)
        yield browser
        await browser.close()


@cache
def axe() -> str:
    """The source of axe-core."""
    return AXE.read_text("utf-8")
