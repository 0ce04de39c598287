"""What of the environment decides how the API is reached."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from calls_mcp.errors import InvocationError
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
