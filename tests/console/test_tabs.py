"""Many tabs of one browser, which has six connections to a server."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.console.desk import open_desk
from tests.console.window import open_window

TABS = 7


@pytest.mark.anyio
async def test_every_tab_loads_and_is_told_whichever_is_closed(
    chromium: Browser, tmp_path: Path
) -> None:
    async with open_desk(tmp_path) as desk, open_window(chromium, desk.console.link("ann")) as ann:
        first = ann.page
        tabs = [first, *[await first.context.new_page() for _ in range(TABS - 1)]]
        for tab in tabs[1:]:
            await tab.goto(f"{desk.console.url}/")
        approval = await desk.ask()
        for tab in tabs:
            await expect(tab.locator(f"#case-{approval}")).to_be_visible()
        await first.close()  # the one that listened
        approval = await desk.ask(time_limit=99)
        for tab in tabs[1:]:
            await expect(tab.locator(f"#case-{approval}")).to_be_visible()
