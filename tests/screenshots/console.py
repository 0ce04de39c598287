"""Pictures of the operator's console, in a small firm."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.async_api import ViewportSize

from tests.chromium import open_async_browser
from tests.console.window import open_window
from tests.screenshots.firm import open_firm

_SIZE: ViewportSize = {"width": 1280, "height": 800}


async def take(keep: Callable[[str, bytes], None]) -> None:
    """Take `waiting`, `call` and `overview`."""
    with TemporaryDirectory(prefix="firm-") as name:
        async with (
            open_firm(Path(name)) as firm,
            open_async_browser() as browser,
            open_window(browser, firm.console.link("Maria"), viewport=_SIZE) as window,
        ):
            await window.page.clock.set_fixed_time(firm.clock.now)
            rooms = {
                "waiting": "/approvals",
                "call": f"/calls/{firm.live}",
                "overview": "/overview",
            }
            for picture, path in rooms.items():
                await window.goto(path)
                keep(picture, await window.page.screenshot(animations="disabled"))
