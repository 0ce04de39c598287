"""Chromium of the system, driven by Playwright, and axe-core."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import cache

from playwright import async_api, sync_api

from tests.optional_tools import AXE, program

AUDIT = """
axe.run(document, {iframes: false, preload: false, resultTypes: ["violations"]})
  .then(({violations}) => violations.map(({id, nodes}) => `${id}: ${nodes[0].html}`))
"""
"""Returns a line for each violation, on a page that has loaded the source of axe-core."""
MISPLACED = """() => {
  const width = document.documentElement.clientWidth;
  const all = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.offsetParent);
  const box = (e) => e.getBoundingClientRect();
  const isOutside = (e) => box(e).right > width + 1 || box(e).left < -1;
  const hidden = ".visually-hidden, .visually-hidden *";
  const outside = all("header *, main *").filter((e) => !e.matches(hidden) && isOutside(e));
  const lines = (e) => e.getClientRects().length;
  const broken = all(".nowrap, time:not(:has(.nowrap))").filter((e) => lines(e) > 1);
  const wide = all(".scroll, .party, td, th").filter((e) => e.scrollWidth > e.clientWidth + 1);
  const controls = all("button, .button, input, select");
  const meet = (a, b) => a.left < b.right - 1 && a.top < b.bottom - 1;
  const isOver = (a, b) => meet(a, b) && meet(b, a);
  const boxes = controls.map(box);
  const over = controls.filter((_, at) => boxes.slice(at + 1).some((b) => isOver(boxes[at], b)));
  return [...outside, ...broken, ...wide, ...over].map((e) => e.outerHTML.slice(0, 200));
}"""
"""Elements that leave the page, break inside a number or time, scroll sideways or overlap."""
# Containers often have no sandbox for Chromium; the pages are our own.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Playwright's default of 5 s is short for a busy machine.
async_api.expect.set_options(timeout=30_000)
sync_api.expect.set_options(timeout=30_000)


@contextmanager
def open_browser() -> Generator[sync_api.Browser]:
    """A browser for synchronous tests."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=_FLAGS)
        yield browser
        browser.close()


@asynccontextmanager
async def open_async_browser(*flags: str) -> AsyncGenerator[async_api.Browser]:
    """A browser for asynchronous tests, with additional flags."""
    async with async_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program("chromium"), args=[*_FLAGS, *flags]
        )
        yield browser
        await browser.close()


@cache
def axe() -> str:
    """The source of axe-core."""
    return AXE.read_text("utf-8")
