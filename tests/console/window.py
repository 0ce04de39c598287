"""A Chromium window in which an operator is signed in."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Locator, Page, expect

from tests.chromium import AUDIT, axe

_FOCUSED = """() => {
  const { activeElement: element } = document;
  const label = element.getAttribute("aria-label") ?? element.labels?.[0]?.innerText;
  const name = (label ?? element.innerText).trim().split("\\n")[0];
  return name;
}"""


@dataclass
class Window:
    """A page of the console at `url`, and the errors that its scripts logged.

    `code` is the decision code that the operator types; empty if the script fills it in.
    """

    page: Page
    url: str
    code: str = ""
    errors: list[str] = field(default_factory=list[str])

    def on_message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    async def goto(self, path: str) -> None:
        await self.page.goto(self.url + path)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    def request(self, approval: str) -> Locator:
        """The request that is shown in full."""
        return self.page.locator(f"#approval-{approval}")

    def row(self, approval: str) -> Locator:
        """The link to a request in the queue."""
        return self.page.locator(f"#row-{approval} a")

    async def expect_text(self, text: str) -> None:
        await expect(self.page.get_by_text(text).first).to_be_visible()

    async def decide(self, name: str) -> None:
        """Submit the form with this button."""
        button = self.button(name)
        if self.code:
            form = self.page.locator("form").filter(has=button)
            await form.get_by_label("Decision code").fill(self.code)
        await button.click()

    async def approve(self) -> None:
        """Approve the request that is shown, which is about placing a call."""
        await self.decide("Call now")
        await self.expect_text("Approved by ann")

    async def deny(self, reason: str = "") -> None:
        await self.page.get_by_label("Reason for denying").fill(reason)
        await self.decide("Deny")
        await self.expect_text("Denied by ann")

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.page.keyboard.press(key)

    async def focused(self) -> str:
        """The label or text of the focused element."""
        name: str = await self.page.evaluate(_FOCUSED)
        return name

    async def violations(self) -> list[str]:
        """The violations that axe-core finds on the page."""
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate(axe())
        found: list[str] = await self.page.evaluate(AUDIT)
        return found


@asynccontextmanager
async def open_window(
    chromium: Browser,
    link: str,
    **options: Any,  # noqa: ANN401  # Playwright's
) -> AsyncGenerator[Window]:
    """Sign in with a link in a new browser profile. No page may log an error."""
    context = await chromium.new_context(**options)
    page = await context.new_page()
    window = Window(page, link.partition("/sign-in")[0])
    page.on("console", window.on_message)
    page.on("pageerror", lambda error: window.errors.append(str(error)))
    await page.goto(link)
    await window.button("Sign in").press("Enter")
    if not options.get("java_script_enabled", True):
        proceed = page.get_by_role("link", name="Continue")
        window.code = await proceed.get_attribute("data-code") or ""
        await proceed.click()
    await page.wait_for_url(f"{window.url}/approvals")
    yield window
    await context.close()
    assert not window.errors, window.errors
