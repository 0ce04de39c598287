"""Notifications of approval requests."""

import json
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from calls_mcp.emulator import ManualClock
from calls_mcp.service.approvals_webhook import ApprovalsWebhook
from calls_mcp.service.background_tasks import open_background_tasks
from calls_mcp.storage.opening import open_storage
from calls_mcp.storage.records import ApprovalRequest, Binding, StorageOptions
from calls_mcp.tools.outcome import Preview
from tests.guard.test_operator_decisions import scene
from tests.harness import placing
from tests.upstream import Exchange, Step, Upstream, answer, drop, drop_unread, hang, refusing

pytestmark = pytest.mark.anyio

GUIDE = Path(__file__).parents[2] / "docs/operator.md"
SECRET = "webhook-secret-of-the-test"
NOW = 1_700_000_000
REQUEST = ApprovalRequest(
    "0123456789abcdef",
    Binding("create_call", "", "support"),
    "place",
    Preview("Call +1 500 555 0205", '"support"'),
    "tester 1",
    "confirm.place",
    NOW,
    NOW + 900,
)


class Told:
    """A step that sets `heard` once the webhook has accepted a notification."""

    def __init__(self) -> None:
        self.heard = anyio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await answer(200, b"ok")(exchange)
        self.heard.set()


@asynccontextmanager
async def webhook(url: str, **options: Any) -> AsyncGenerator[ApprovalsWebhook]:  # noqa: ANN401
    given: dict[str, Any] = {"pauses": (0, 0, 0), "timeout": 30, "settling": 0, **options}
    url, clock = f"{url}/services/T0/B0/in-the-path", ManualClock(NOW)
    async with (
        open_storage("memory:", StorageOptions(clock=clock)) as storage,
        open_background_tasks() as background,
    ):
        await storage.add_request(REQUEST, 1)
        yield ApprovalsWebhook(
            url=url, storage=storage, background=background, clock=clock, **given
        )


async def delivered(*steps: Step, **options: Any) -> Upstream:  # noqa: ANN401
    """Send one notification to an endpoint that plays these steps, and wait until it is over."""
    async with Upstream(*steps) as upstream, webhook(upstream.base_url, **options) as hook:
        hook.notify(REQUEST)
        with anyio.fail_after(30):
            await hook.idle()
    return upstream


def documented() -> Callable[[str, str, str, bytes], bool]:
    """Return the function that the operator's guide recommends to verify a signature."""
    _, _, code = GUIDE.read_text("utf-8").partition("```python verify.py\n")
    names: dict[str, Any] = {}
    exec(code.partition("```")[0], names)  # noqa: S102
    return names["is_genuine"]


async def test_a_new_request_is_sent_once_and_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    async with Upstream(told) as upstream:
        settings: dict[str, Any] = {
            "calls_mcp_approvals_webhook": f"{upstream.base_url}/hook",
            "calls_mcp_approvals_webhook_secret": SECRET,
            "calls_mcp_console_url": "https://calls.example.com",
            "calls_mcp_operator_wait": "0",
        }
        async with scene(tmp_path, **settings) as here, here.harness.connect() as agent:
            asked = await agent.call("create_call", **placing())
            await agent.call("create_call", **placing())
            with anyio.fail_after(30):
                await told.heard.wait()
    (request,) = upstream.requests
    approval, expires_at = (asked["confirmation"][key] for key in ("approval", "expires_at"))
    url = f"https://calls.example.com/approvals/{approval}"
    assert json.loads(request.body) == {
        "text": "Approval needed: `Call +1•••05`. Requested by `tester`. "
        f"Decide at {url} before {expires_at}.",
        "id": approval,
        "url": url,
        "expires_at": expires_at,
    }
    assert request.target == "/hook"
    stamp = request.headers["x-calls-mcp-timestamp"]
    signature = request.headers["x-calls-mcp-signature"]
    monkeypatch.setattr("time.time", lambda: NOW)
    is_genuine = documented()
    assert is_genuine(SECRET, stamp, signature, request.body)
    assert not is_genuine(SECRET, stamp, signature, request.body + b" ")
    assert not is_genuine(SECRET, f"{NOW + 1}", signature, request.body)
    assert not is_genuine("another", stamp, signature, request.body)
    monkeypatch.setattr("time.time", lambda: NOW + 301)
    assert not is_genuine(SECRET, stamp, signature, request.body)


async def test_whole_numbers_are_sent_only_if_that_is_set() -> None:
    upstream = await delivered(answer(), numbers="whole")
    assert "`Call +1 500 555 0205`" in json.loads(upstream.requests[0].body)["text"]


async def test_a_name_cannot_mention_people_or_add_links() -> None:
    nasty = "`@channel` <!here> [a](http://b)\n"
    binding = Binding("create_call", "", nasty)
    async with Upstream(answer()) as upstream, webhook(upstream.base_url) as hook:
        hook.notify(replace(REQUEST, binding=binding))
        await hook.idle()
    text = json.loads(upstream.requests[0].body)["text"]
    assert "Requested by `'@channel' &lt;!here&gt; [a](http://b)`." in text


async def test_a_request_that_is_no_longer_pending_is_not_announced() -> None:
    async with Upstream(answer()) as upstream, webhook(upstream.base_url) as hook:
        hook.notify(replace(REQUEST, identifier="another"))
        await hook.idle()
    assert upstream.requests == []


@pytest.mark.parametrize("failure", [answer(500), answer(429), drop, drop_unread, hang])
async def test_a_failed_notification_is_repeated(failure: Step, logged: list[str]) -> None:
    timeout = 0.2 if failure is hang else 30
    upstream = await delivered(failure, failure, answer(204), timeout=timeout)
    assert len(upstream.requests) == (1 if failure is drop_unread else 3)
    assert logged == []


@pytest.mark.parametrize("status", [302, 400, 404])
async def test_a_rejected_notification_is_not_repeated(
    status: int, logged: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)  # of all libraries, too
    upstream = await delivered(answer(status, headers={"Location": "/elsewhere"}))
    assert len(upstream.requests) == 1
    (line,) = logged
    assert f"status {status}" in line
    assert "CALLS_MCP_APPROVALS_WEBHOOK" in line
    assert "in-the-path" not in caplog.text


async def test_an_outage_is_logged_once_and_so_is_its_end(logged: list[str]) -> None:
    with refusing() as nowhere:
        async with webhook(nowhere) as hook:
            for _ in range(300):
                hook.notify(REQUEST)
            await hook.idle()
    assert len(logged) == 1
    logged.clear()
    async with (
        Upstream(*[answer(500)] * 5, answer()) as upstream,
        webhook(upstream.base_url) as hook,
    ):
        for _ in range(2):
            hook.notify(REQUEST)
            await hook.idle()
        hook.notify(REQUEST)
        await hook.idle()
    assert len(upstream.requests) == 6  # four attempts, and one for each of the others
    assert ["again" in line for line in logged] == [False, True]


async def test_an_endpoint_that_hangs_delays_neither_a_call_nor_the_shutdown(
    tmp_path: Path,
) -> None:
    async with Upstream(hang) as upstream:
        hook = upstream.base_url
        async with (
            scene(tmp_path, poll=0.01, calls_mcp_approvals_webhook=hook) as here,
            here.harness.connect() as agent,
        ):
            asked = await agent.call("create_call", **placing())
            assert asked["outcome"] == "awaiting_operator"
            await here.decide(approve=True)
            assert (await agent.call("create_call", **placing()))["outcome"] == "done"


@pytest.fixture
def logged() -> Generator[list[str]]:
    """The warnings of the module, as they are logged."""
    lines = list[str]()

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, keeper = logging.getLogger(ApprovalsWebhook.__module__), Keeper(logging.WARNING)
    logger.addHandler(keeper)
    yield lines
    logger.removeHandler(keeper)
