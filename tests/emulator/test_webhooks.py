"""The delivery of webhooks: retries, timeouts and their overrides in the URL's fragment."""

import socket
from collections.abc import Generator
from contextlib import closing

import pytest

from calls_mcp.emulator import DEFAULT_ACCOUNT, Emulator, ManualClock, Script
from calls_mcp.emulator.testing import running
from calls_mcp.emulator.webhooks import ConnectionOverrides, webhooks

from .callback_receiver import Receiver
from .sdk import SdkClient

PATIENCE = 30  # seconds
USUAL = ConnectionOverrides()
EVERY_FAILURE = frozenset({"4xx", "5xx", "ct", "rt"})


@pytest.fixture
def silent() -> Generator[str]:
    """Return the URL of a server that accepts connections and never responds."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


@pytest.fixture
def closed() -> str:
    """Return a URL where nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/"


def delivered(sdk: SdkClient, url: str) -> tuple[int, str | None]:
    """Send a callback; return the number of attempts and the outcome."""
    sdk.call(status_callback=url)
    sdk.advance(100)
    assert sdk.emulator.calls.callbacks.wait(PATIENCE)
    (callback,) = sdk.emulator.calls.callbacks.latest(1)
    return callback.attempts, callback.outcome


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("", USUAL),
        ("rc=0&ct=100&rt=200&tt=300", ConnectionOverrides(0, USUAL.retried, 0.1, 0.2, 0.3)),
        ("rc=5&ct=10000", ConnectionOverrides(5, connect=10)),
        ("rp=4xx,rt", ConnectionOverrides(retried=frozenset({"4xx", "rt"}))),
        ("rp=all", ConnectionOverrides(retried=EVERY_FAILURE)),
        ("rc=6&ct=99&rt=15001&tt=0", USUAL),
        ("rc=-1&ct=1e3&rt=&tt=1000.0&rp=3xx", USUAL),
        ("e=ashburn&sni=y&section", USUAL),
    ],
)
def test_valid_overrides_are_used_and_others_ignored(
    fragment: str, expected: ConnectionOverrides
) -> None:
    assert ConnectionOverrides.of(fragment) == expected


@pytest.mark.parametrize(("overrides", "attempts"), [("", 2), ("#rc=0", 1), ("#rc=5", 6)])
def test_a_failed_connection_is_retried_once_or_as_the_url_says(
    sdk: SdkClient, closed: str, overrides: str, attempts: int
) -> None:
    made, outcome = delivered(sdk, closed + overrides)
    assert made == attempts
    assert outcome
    assert outcome.startswith("no response")


@pytest.mark.parametrize("status", [301, 404, 500])
def test_a_response_of_any_status_is_not_retried_by_default(
    sdk: SdkClient, receiver: Receiver, status: int
) -> None:
    receiver.statuses = [status]
    assert delivered(sdk, receiver.url) == (1, str(status))


@pytest.mark.parametrize(
    ("overrides", "statuses", "expected"),
    [
        ("#rp=5xx", [503], (2, "204")),
        ("#rp=4xx", [503], (1, "503")),
        ("#rp=4xx,5xx&rc=3", [404, 500, 503, 502, 200], (4, "502")),
        ("#rp=all&rc=5", [400, 500], (3, "204")),
        ("#rp=all&rc=5", [301], (1, "301")),
    ],
)
def test_responses_are_retried_as_the_url_says(
    sdk: SdkClient,
    receiver: Receiver,
    overrides: str,
    statuses: list[int],
    expected: tuple[int, str],
) -> None:
    receiver.statuses = statuses
    assert delivered(sdk, receiver.url + overrides) == expected
    attempts = receiver.take(expected[0])
    assert len({attempt.token for attempt in attempts}) == 1
    assert all("#" not in attempt.url for attempt in attempts)


@pytest.mark.parametrize(
    ("overrides", "attempts"), [("#rt=100", 1), ("#rt=100&rp=rt&rc=2", 3), ("#tt=100&rp=rt", 1)]
)
def test_a_receiver_that_does_not_respond_in_time_is_given_up_on(
    sdk: SdkClient, silent: str, overrides: str, attempts: int
) -> None:
    assert delivered(sdk, silent + overrides) == (attempts, "no response")


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n"])
def test_a_receiver_without_http_counts_as_no_response(sdk: SdkClient, answer: bytes) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as confused:
        confused.settimeout(PATIENCE)
        port = confused.getsockname()[1]
        sdk.call(status_callback=f"http://127.0.0.1:{port}/#rp=rt")
        sdk.advance(100)
        for _ in range(2):
            connection, _ = confused.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)
    assert sdk.emulator.calls.callbacks.wait(PATIENCE)
    (callback,) = sdk.emulator.calls.callbacks.latest(1)
    assert callback.attempts == 2


def test_the_next_event_is_sent_after_the_last_retry(sdk: SdkClient, receiver: Receiver) -> None:
    receiver.statuses = [500] * 2
    url = f"{receiver.url}#rp=5xx"
    sdk.call(status_callback=url, status_callback_event=["initiated", "completed"])
    sdk.advance(100)
    assert receiver.statuses_of(3) == ["initiated", "initiated", "completed"]


def test_deliveries_have_different_tokens(sdk: SdkClient, receiver: Receiver) -> None:
    sdk.call(status_callback=receiver.url, status_callback_event=["initiated", "completed"])
    sdk.call(status_callback=receiver.url)
    sdk.advance(100)
    assert len({callback.token for callback in receiver.take(3)}) == 3


def test_a_document_is_named_without_the_parameters_of_its_get_request(receiver: Receiver) -> None:
    url = f"{receiver.url}?menu=1"
    with running(Emulator(clock=ManualClock())) as api:
        api.script(api.number, Script(voice_url=url, voice_method="GET"))
        sid = api.ring(api.number, "+12025550123")
        fetched = [each.text for each in api.transcript(sid) if each.event == "fetched"]
    assert fetched == [url]
    assert receiver.take(1)[0].query["CallSid"] == sid


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "http:///",
        "http://[bad",
        "http://[bad]/",
        "http://xn--/",
        "http://127.0.0.1:1\u2100/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1/\ud800",
        "ftp://127.0.0.1/",
    ],
)
@pytest.mark.parametrize("anywhere", [False, True])
@pytest.mark.anyio
async def test_an_invalid_url_is_a_failure(method: str, url: str, *, anywhere: bool) -> None:
    async with webhooks(DEFAULT_ACCOUNT, anywhere=anywhere) as hooks:
        reply = await hooks.send(method, url, {}, "")
    assert reply.status is None
    assert reply.failure


@pytest.mark.parametrize(
    ("url", "failure"),
    [
        ("http://127.0.0.1:0/", "not sent: port 0 is invalid"),
        ("http://127.0.0.1:99999/", "not sent: the URL is invalid"),
        ("http://192.0.2.1/", "not sent: other machines receive no callbacks"),
    ],
)
@pytest.mark.anyio
async def test_the_failure_says_why_a_request_was_not_sent(url: str, failure: str) -> None:
    async with webhooks(DEFAULT_ACCOUNT, anywhere=False) as hooks:
        reply = await hooks.send("POST", url, {}, "")
    assert reply.failure.startswith(failure)
