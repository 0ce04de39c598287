"""Somebody's window of real Chromium, in which they have come in."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Locator, Page, expect

from tests.chromium import AUDIT, axe


@dataclass
class Window:
    """A page of the console at `url`, and what Chromium complained of."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list[str])

    def note(self, told: ConsoleMessage) -> None:
        if told.type == "error":
            self.complaints.append(told.text)

    async def go(self, path: str) -> None:
        await self.page.goto(self.url + path)

    def text(self, words: str) -> Locator:
        return self.page.get_by_text(words)

    async def sees(self, words: str) -> None:
        """Wait until these words can be seen."""
        await expect(self.text(words).first).to_be_visible()

    async def approve(self) -> None:
        """Press the only button for it."""
        await self.page.get_by_role("button", name="Approve").click()

    async def deny(self, reason: str = "") -> None:
        """Write a reason and press the only button for it."""
        await self.page.get_by_label("Why not").fill(reason)
        await self.page.get_by_role("button", name="Deny").click()

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.page.keyboard.press(key)

    async def focused(self) -> str:
        """What has the focus: its name, or its text."""
        told: str = await self.page.evaluate(_FOCUSED)
        return told

    async def violations(self) -> list[str]:
        """What axe-core finds on the page as it is shown now."""
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate(axe())
        found: list[str] = await self.page.evaluate(AUDIT)
        return found


_FOCUSED = """() => {
  const { activeElement: here } = document;
  const name = here.getAttribute("aria-label") ?? here.labels?.[0]?.innerText ?? here.innerText;
  return here.id.startsWith("case-") ? "card" : name.trim().split("\\n")[0];
}"""


@asynccontextmanager
async def open_window(
    chromium: Browser,
    link: str,
    **options: Any,  # noqa: ANN401  # Playwright's
) -> AsyncGenerator[Window]:
    """Come in by a link, in a browser profile of one's own."""
    context = await chromium.new_context(**options)
    page = await context.new_page()
    window = Window(page, link.partition("/sign-in")[0])
    page.on("console", window.note)
    page.on("pageerror", lambda error: window.complaints.append(str(error)))
    await page.goto(link)
    await page.get_by_role("button", name="Enter the console").press("Enter")
    await page.wait_for_url(window.url + "/approvals")
    yield window
    await context.close()
    assert not window.complaints, window.complaints
