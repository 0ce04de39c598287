"""Pictures of the operator's console of a small company."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.async_api import FloatRect, Page, ViewportSize

from tests.chromium import open_async_browser
from tests.console.window import open_window
from tests.screenshots.firm import open_firm

_SIZE: ViewportSize = {"width": 1280, "height": 800}
_README: ViewportSize = {"width": 900, "height": 1200}
_EDGE = 24  # pixels below the first approval


async def take(keep: Callable[[str, bytes], None]) -> None:
    """Take `approval`, `call` and `overview`."""
    with TemporaryDirectory(prefix="firm-") as name:
        async with open_firm(Path(name)) as firm, open_async_browser() as browser:
            link = firm.console.link
            async with open_window(
                browser, link("Maria"), viewport=_README, device_scale_factor=2
            ) as window:
                await window.page.clock.set_fixed_time(firm.clock.now)
                await window.goto("/approvals")
                keep("approval", await _first_approval(window.page))
            async with open_window(browser, link("Maria"), viewport=_SIZE) as window:
                await window.page.clock.set_fixed_time(firm.clock.now)
                for picture, path in {
                    "call": f"/calls/{firm.live}",
                    "overview": "/overview",
                }.items():
                    await window.goto(path)
                    keep(picture, await window.page.screenshot(animations="disabled"))


async def _first_approval(page: Page) -> bytes:
    """Return a picture of the page down to the end of its first approval request."""
    box = await page.locator("[id^=approval-]").first.bounding_box()
    assert box
    height = box["y"] + box["height"] + _EDGE
    clip: FloatRect = {"x": 0, "y": 0, "width": _README["width"], "height": height}
    return await page.screenshot(animations="disabled", clip=clip)
