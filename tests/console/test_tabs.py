"""Many tabs of one browser, which has six connections to a server."""

import shutil
from pathlib import Path

import pytest
from playwright.async_api import async_playwright, expect

from tests.app.host import FLAGS
from tests.console.desk import open_desk
from tests.console.test_waiting import asked

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TABS = 7


@pytest.mark.anyio
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
async def test_every_tab_loads_and_is_told_whichever_is_closed(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        window = await browser.new_context()
        first = await window.new_page()
        await first.goto(desk.console.link("ann"))
        await first.get_by_role("button", name="Enter the console").click()
        await first.wait_for_url(f"{desk.console.url}/")
        tabs = [first, *[await window.new_page() for _ in range(TABS - 1)]]
        for tab in tabs[1:]:
            await tab.goto(f"{desk.console.url}/")
        approval = await asked(desk)
        for tab in tabs:
            await expect(tab.locator(f"#case-{approval}")).to_be_visible()
        await first.close()  # the one that listened
        approval = await asked(desk, time_limit=99)
        for tab in tabs[1:]:
            await expect(tab.locator(f"#case-{approval}")).to_be_visible()
        await browser.close()
