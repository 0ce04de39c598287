"""Screenshots of the console of a small company, light and dark."""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from playwright.async_api import FloatRect, Page, ViewportSize

from tests.chromium import open_async_browser
from tests.console.window import open_window
from tests.screenshots.workshop import open_workshop

_SIZE: ViewportSize = {"width": 1280, "height": 800}
_README: ViewportSize = {"width": 1000, "height": 1200}
_EDGE = 24  # pixels below the first approval
_SCHEMES: Mapping[str, Literal["light", "dark"]] = {"": "light", "-dark": "dark"}


async def take(save: Callable[[str, bytes], None]) -> None:
    """Take `approval`, `call` and `overview`, and the same with `-dark`."""
    with TemporaryDirectory(prefix="workshop-") as name:
        async with open_workshop(Path(name)) as workshop, open_async_browser() as browser:
            link = workshop.console.link
            async with open_window(
                browser, link("Maria"), viewport=_README, device_scale_factor=2
            ) as window:
                await window.page.clock.set_fixed_time(workshop.clock.now)
                await window.goto("/approvals")
                async for suffix in _schemes(window.page):
                    save(f"approval{suffix}", await _first_approval(window.page))
            async with open_window(browser, link("Maria"), viewport=_SIZE) as window:
                await window.page.clock.set_fixed_time(workshop.clock.now)
                for picture, path in {
                    "call": f"/calls/{workshop.live}",
                    "overview": "/overview",
                }.items():
                    await window.goto(path)
                    async for suffix in _schemes(window.page):
                        shot = await window.page.screenshot(animations="disabled")
                        save(f"{picture}{suffix}", shot)


async def _schemes(page: Page) -> AsyncIterator[str]:
    """Switch the page to each color scheme. Yield the end of the picture's name."""
    for suffix, scheme in _SCHEMES.items():
        await page.emulate_media(color_scheme=scheme)
        yield suffix


async def _first_approval(page: Page) -> bytes:
    """Return a picture of the page down to the end of its first approval request."""
    box = await page.locator("[id^=approval-]").first.bounding_box()
    assert box
    height = box["y"] + box["height"] + _EDGE
    clip: FloatRect = {"x": 0, "y": 0, "width": _README["width"], "height": height}
    return await page.screenshot(animations="disabled", clip=clip)
