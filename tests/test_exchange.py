"""What of the environment decides how the API is reached."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import anyio
import certifi
import pytest
from anyio.abc import SocketAttribute, SocketStream

from calls_mcp.errors import ConfigurationError, InvocationError
from calls_mcp.runtime import Runtime
from calls_mcp.settings import load_settings
from calls_mcp.twilio import TwilioClient
from calls_mcp.wire import Request
from tests.rig import ACCOUNT
from tests.upstream import access

pytestmark = pytest.mark.anyio

AWAY = "https://calls.invalid"
NOBODY = "https://0.0.0.0:1"  # is this machine, though it does not look so
READ = Request("read", "GET", "/x", ACCOUNT)


@dataclass
class Proxy:
    """A proxy that takes down what it is asked for, and refuses it."""

    url: str = ""
    asked: list[bytes] = field(default_factory=list[bytes])

    async def __call__(self, stream: SocketStream) -> None:
        async with stream:
            self.asked.append(await stream.receive())
            await stream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


@asynccontextmanager
async def proxy() -> AsyncGenerator[Proxy]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610  # it is not Django's
    found = Proxy(f"http://127.0.0.1:{port}")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, found)
        yield found
        tasks.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def fails(base_url: str) -> None:
    """Ask an API that is not there."""
    twilio = TwilioClient(replace(access(base_url), deadline=2))
    with pytest.raises(InvocationError):
        await twilio.send(READ)
    await twilio.aclose()


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
async def test_a_proxy_that_the_environment_names_is_asked_to_connect(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy() as asked:
        monkeypatch.setenv(variable, asked.url)
        await fails(AWAY)
    assert asked.asked[0].startswith(b"CONNECT calls.invalid:443 HTTP/1.1\r\n")
    assert b"Basic" not in b"".join(asked.asked)  # our credentials are the API's


async def test_a_host_that_needs_no_proxy_is_reached_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxy() as asked:
        monkeypatch.setenv("ALL_PROXY", asked.url)
        monkeypatch.setenv("NO_PROXY", "0.0.0.0")  # noqa: S104  # nothing is bound to it
        await fails(NOBODY)
    assert asked.asked == []


async def test_a_proxy_may_be_named_without_http(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy() as asked:
        monkeypatch.setenv("HTTPS_PROXY", asked.url.removeprefix("http://"))
        await fails(AWAY)
    assert asked.asked[0].startswith(b"CONNECT calls.invalid:443 HTTP/1.1\r\n")


async def test_a_host_and_port_that_need_no_proxy_are_reached_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxy() as asked:
        monkeypatch.setenv("ALL_PROXY", asked.url)
        monkeypatch.setenv("NO_PROXY", NOBODY.removeprefix("https://"))
        await fails(NOBODY)
    assert asked.asked == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTPS_PROXY", "socks5://proxy.invalid:1080"),
        ("ALL_PROXY", "http://"),
        ("SSL_CERT_FILE", "/no/such/file"),
        ("SSL_CERT_FILE", __file__),
    ],
)
async def test_what_can_not_be_used_of_the_environment_is_told_at_start(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable):
        async with Runtime(load_settings(), access(AWAY)):
            pass


async def test_an_empty_folder_of_certificates_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    monkeypatch.setenv("SSL_CERT_DIR", "")
    async with Runtime(load_settings(), access(AWAY)) as runtime:
        assert await runtime.is_ready()
