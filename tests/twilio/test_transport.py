"""Proxies and certificates from the environment."""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from calls_mcp.errors import ConfigurationError, InvocationError, Unreachable
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from calls_mcp.twilio.client import TwilioClient
from calls_mcp.twilio.requests import Request
from tests.harness import ACCOUNT
from tests.upstream import Upstream, access, answer, call

pytestmark = pytest.mark.anyio

AWAY = "https://calls.invalid"
FAILED = "Nothing was sent: the connection failed"
NOBODY = "https://0.0.0.0:1"  # is this machine in another spelling
READ = Request("read", "GET", "/x", ACCOUNT)
CHANGE = Request("change", "POST", "/x", ACCOUNT)


@dataclass
class Proxy:
    """A proxy that records requests, and refuses them or never responds."""

    answers: bool = True
    url: str = ""
    asked: list[bytes] = field(default_factory=list[bytes])

    async def __call__(self, stream: SocketStream) -> None:
        async with stream:
            self.asked.append(await stream.receive())
            if not self.answers:
                await anyio.sleep_forever()
            await stream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


@asynccontextmanager
async def proxy(*, answers: bool = True) -> AsyncGenerator[Proxy]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610  # it is not Django's
    found = Proxy(answers, f"http://127.0.0.1:{port}")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, found)
        yield found
        tasks.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


async def fails(base_url: str, request: Request = READ) -> InvocationError:
    """Send a request to an API that does not exist. Return the error."""
    async with aclosing(TwilioClient(replace(access(base_url), deadline=1))) as twilio:
        with pytest.raises(InvocationError) as raised:
            await twilio.send(request)
    return raised.value


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_the_proxy_in_the_environment_is_used(
    variable: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy() as asked:
        monkeypatch.setenv("ALL_PROXY", "socks5://unused.invalid:1080")
        monkeypatch.setenv(variable, scheme + asked.url.removeprefix("http://"))
        error = await fails(AWAY, CHANGE)
    assert isinstance(error, Unreachable)
    assert error.message == f"{FAILED}: the proxy refused to connect with status 403."
    assert asked.asked[0].startswith(b"CONNECT calls.invalid:443 HTTP/1.1\r\n")
    assert b"Basic" not in b"".join(asked.asked)  # the credentials are for the API


async def test_nothing_was_sent_if_the_proxy_does_not_respond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxy(answers=False) as asked:
        monkeypatch.setenv("HTTPS_PROXY", asked.url)
        error = await fails(AWAY, CHANGE)
    assert len(asked.asked) == 1
    assert (error.kind, error.message) == (
        "unreachable",
        "Nothing was sent: the request could not be sent within 1 s.",
    )


@pytest.mark.parametrize(
    ("url", "proxy", "why"),
    [
        ("http://127.0.0.1:1", "", "connection refused"),
        (AWAY, "", "host name not found"),
        (AWAY, "http://u:s3cret@127.0.0.1:1", "the proxy can't be reached: connection refused"),
        (AWAY, "http://proxy.invalid:1", "the proxy can't be reached: host name not found"),
    ],
)
async def test_the_reason_for_a_failed_connection_is_reported(
    url: str, proxy: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert (await fails(url, CHANGE)).message == f"{FAILED}: {why}."


@pytest.mark.parametrize("named", ["0.0.0.0", "0.0.0.0:1"])  # noqa: S104  # nothing is bound to it
async def test_a_host_in_no_proxy_is_reached_directly(
    named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy() as asked:
        monkeypatch.setenv("ALL_PROXY", asked.url)
        monkeypatch.setenv("NO_PROXY", named)
        await fails(NOBODY)
    assert asked.asked == []


async def test_an_api_on_this_machine_is_reached_directly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with proxy() as asked, Upstream(answer(200, call())) as upstream:
        for name in ("HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, asked.url)
        async with aclosing(TwilioClient(access(upstream.base_url))) as twilio:
            assert (await twilio.send(READ)).status == 200
    assert asked.asked == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTPS_PROXY", "socks5://proxy.invalid:1080"),
        ("HTTPS_PROXY", "ftp://proxy.invalid"),
        ("HTTPS_PROXY", "http://proxy.invalid:port"),
        ("ALL_PROXY", "http://"),
        ("SSL_CERT_FILE", "/no/such/file"),
        ("SSL_CERT_FILE", __file__),
    ],
)
async def test_unusable_certificates_and_proxies_are_reported_at_start(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable):
        async with Runtime(load_settings(), access(AWAY)):
            pass


async def test_empty_variables_for_certificates_are_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.setenv("SSL_CERT_DIR", "")
    async with Runtime(load_settings(), access(AWAY)) as runtime:
        assert await runtime.is_ready()


def certify(folder: Path) -> Path:
    """Create a file with a key and a self-signed certificate for localhost."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = folder / "localhost.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *form)
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file


async def test_nothing_is_sent_to_an_api_with_an_untrusted_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bytes] = []
    body = json.dumps(call()).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    file = certify(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    async with await asyncio.start_server(serve, "localhost", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        base_url = f"https://localhost:{port}"
        error = await fails(base_url, CHANGE)
        assert error.kind == "unreachable"
        assert error.message.startswith(f"{FAILED}: the server's certificate can't be verified (se")
        assert told == []
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        async with aclosing(TwilioClient(access(base_url))) as twilio:
            assert (await twilio.send(READ)).status == 200
    assert len(told) == 1
