"""A test host that shows MCP Apps, in a real browser without a network."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from mcp_types import CallToolResult, TextResourceContents
from playwright.sync_api import BrowserContext, Frame, Page, Route

from tests.chromium import AUDIT, axe

HOST, VIEW = "https://host.test/", "https://view.test/"
_TEMPLATE = Path(__file__).with_name("app_host.html")


@dataclass
class Host:
    """An app in its frame, its messages, and the host's side of the protocol."""

    page: Page
    requests: list[str] = field(default_factory=list[str])
    complaints: list[str] = field(default_factory=list[str])

    @property
    def view(self) -> Frame:
        frame = self.page.frame(url=VIEW)
        assert frame is not None
        return frame

    @property
    def told(self) -> list[dict[str, Any]]:
        """The messages that came from the app."""
        return cast("list[dict[str, Any]]", self.page.evaluate("told"))

    def show(self, result: CallToolResult | Mapping[str, object]) -> None:
        """Send a tool's result to the app; a mapping is its structured content."""
        if isinstance(result, CallToolResult):
            wire = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        else:
            wire = {"content": list[object](), "structuredContent": {**result}}
        self.notify("ui/notifications/tool-result", wire)

    def change(self, **context: object) -> None:
        """Notify the app of a change, such as of the theme."""
        self.notify("ui/notifications/host-context-changed", context)

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        self.page.evaluate("notify", [method, {**params}])

    def request(self, method: str) -> dict[str, Any]:
        """Return the app's response."""
        return cast("dict[str, Any]", self.page.evaluate("request", method))

    def column(self, title: str) -> list[str]:
        """Return the texts of a list's column, from top to bottom."""
        texts = self.view.locator(f'td[data-column="{title}"]').all_inner_texts()
        return [text.replace("\u00a0", " ") for text in texts]

    def violations(self) -> list[str]:
        """Return the violations that axe-core finds in the app."""
        if not self.view.evaluate("'axe' in window"):
            self.view.evaluate(axe())
        return cast("list[str]", self.view.evaluate(AUDIT))


@contextmanager
def open_host(
    chromium: BrowserContext,
    app: TextResourceContents,
    context: Mapping[str, object] | None = None,
    width: int = 1440,
) -> Generator[Host]:
    """Open a host with the app in a frame of `width` pixels, and with this `context`."""
    page = chromium.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    host = Host(page)
    document = _TEMPLATE.read_text("utf-8").replace("CONTEXT", json.dumps(context or {}))
    policy = {"Content-Security-Policy": _policy(app)}

    def serve(route: Route) -> None:
        host.requests.append(route.request.url)
        match route.request.url:
            case "https://host.test/":
                route.fulfill(body=document, content_type="text/html")
            case "https://view.test/":
                route.fulfill(body=app.text, content_type="text/html", headers=policy)
            case _:
                route.abort()

    page.route("**", serve)
    page.on("console", lambda message: host.complaints.append(message.text))
    page.on("pageerror", lambda error: host.complaints.append(str(error)))
    page.goto(HOST)
    yield host
    page.close()


def _policy(app: TextResourceContents) -> str:
    """Return the content security policy that the specification derives from an app's domains."""
    declared = cast("dict[str, list[str]]", (app.meta or {})["ui"]["csp"])
    connect, load, frame, base = (
        " ".join(declared[kind]) or "'none'"
        for kind in ("connectDomains", "resourceDomains", "frameDomains", "baseUriDomains")
    )
    load = load.removeprefix("'none'")  # it has no effect next to other sources
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'unsafe-inline' {load}",
            f"style-src 'unsafe-inline' {load}",
            f"connect-src {connect}",
            f"img-src data: {load}",
            f"font-src data: {load}",
            f"media-src data: {load}",
            f"frame-src {frame}",
            "object-src 'none'",
            f"base-uri {base}",
        )
    )
