"""Events that notify open pages of changes."""

from pathlib import Path

import anyio
import pytest
from playwright.async_api import Browser, expect

from calls_mcp.console.calls_page import CallsPage
from tests.console.harness import Harness, WebClient, open_harness, sign_in
from tests.console.window import open_window

pytestmark = pytest.mark.anyio

TABS = 7  # a browser opens six connections to a server at most


async def test_a_change_of_pending_requests_sends_an_event(
    harness: Harness, ann: WebClient
) -> None:
    async with ann.events("approvals") as events:
        first = await anext(events)
        approval = await harness.request_call()
        assert await anext(events) != first
        await ann.decide(f"/approvals/{approval}", decision="deny")
        assert await anext(events) == first


async def test_an_api_that_hangs_does_not_delay_events_about_approvals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: CallsPage) -> str:
        await anyio.sleep_forever()
        return ""

    monkeypatch.setattr(CallsPage, "fingerprint", hang)
    async with (
        open_harness(tmp_path) as harness,
        sign_in(harness.console) as ann,
        ann.events("calls"),
        ann.events("approvals") as events,
    ):
        first = await anext(events)
        await harness.request_call()
        assert await anext(events) != first


async def test_events_end_with_the_session(harness: Harness, ann: WebClient) -> None:
    async with ann.events("approvals") as events:
        await anext(events)
        await ann.post("/sign-out")
        await harness.request_call()
        assert [each async for each in events] == []


async def test_an_unknown_topic_is_not_found(ann: WebClient) -> None:
    assert (await ann.get("/events?topic=other")).status_code == 404


async def test_all_tabs_are_updated_after_one_is_closed(
    chromium: Browser, harness: Harness
) -> None:
    async with open_window(chromium, harness.console.link("ann")) as window:
        first = window.page
        tabs = [first, *[await first.context.new_page() for _ in range(TABS - 1)]]
        for tab in tabs[1:]:
            await tab.goto(f"{harness.console.url}/approvals")
        approval = await harness.request_call()
        for tab in tabs:
            await expect(tab.locator(f"#row-{approval}")).to_be_visible()
        await first.close()  # the tab that listened
        approval = await harness.request_call(time_limit=99)
        for tab in tabs[1:]:
            await expect(tab.locator(f"#row-{approval}")).to_be_visible()


async def test_a_head_request_opens_no_stream(ann: WebClient) -> None:
    response = await ann.http.head(f"{ann.url}/events?topic=approvals")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert await ann.read("/approvals")  # on the same connection
