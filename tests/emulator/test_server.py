"""The emulator in this process, on a socket, with a file and with other clocks."""

import asyncio
import signal
import socket
from base64 import b64encode
from pathlib import Path

import httpx
import pytest

from calls_mcp.emulator import (
    DEFAULT_ACCOUNT,
    Account,
    Emulator,
    ManualClock,
    accelerated,
)

from .api_client import ACCOUNT, LIST, connected, item

pytestmark = pytest.mark.anyio

DEFAULT_LIST = LIST.replace(ACCOUNT.sid, DEFAULT_ACCOUNT.sid)
CREDENTIALS = DEFAULT_ACCOUNT.sid, DEFAULT_ACCOUNT.auth_token


@pytest.fixture
def port() -> int:
    return 0


def ipv6_loopback() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def test_it_only_listens_on_a_free_loopback_port(emulator: Emulator) -> None:
    url = httpx.URL(emulator.base_url)
    assert url.host == "127.0.0.1"
    assert url.port
    async with Emulator() as other:
        assert other.base_url != emulator.base_url


async def test_without_a_port_it_only_responds_in_this_process() -> None:
    async with Emulator(port=None) as emulator:
        transport = httpx.ASGITransport(emulator.app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://emulator", auth=CREDENTIALS
        ) as client:
            assert (await client.get(DEFAULT_LIST)).status_code == 200
        assert [entry.status for entry in emulator.requests] == [200]


@pytest.mark.skipif(not ipv6_loopback(), reason="this machine has no IPv6 loopback")
async def test_it_can_listen_on_ipv6() -> None:
    async with Emulator(host="::1") as emulator:
        assert emulator.base_url.startswith("http://[::1]:")
        async with httpx.AsyncClient(base_url=emulator.base_url, auth=CREDENTIALS) as client:
            assert (await client.get(DEFAULT_LIST)).status_code == 200


async def test_it_stops_silently_when_the_context_ends(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with Emulator() as emulator:
        port = httpx.URL(emulator.base_url).port
    assert port
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass


async def test_it_does_not_handle_signals() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with Emulator():
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("name", "status"), [("calls.sqlite", 200), (":memory:", 404)])
async def test_a_file_survives_a_restart_and_memory_does_not(
    tmp_path: Path, clock: ManualClock, name: str, status: int
) -> None:
    database = str(tmp_path / name) if name != ":memory:" else name
    emulator = Emulator(account=ACCOUNT, database=database, clock=clock)
    async with emulator, connected(emulator) as api:
        sid = await api.call()
    clock.advance(4)
    async with emulator, connected(emulator) as api:
        response = await api.client.get(item(sid))
    assert response.status_code == status
    assert response.json()["status"] == ("in-progress" if status == 200 else 404)


def test_an_accelerated_clock_runs_at_its_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic = ManualClock(50)
    monkeypatch.setattr("time.time", ManualClock(1000))
    monkeypatch.setattr("time.monotonic", monotonic)
    clock = accelerated(60)
    assert clock() == 1000
    monotonic.advance(2)
    assert clock() == 1120


async def test_it_stops_immediately_while_a_receiver_hangs(account: Account) -> None:
    clock, asked = ManualClock(), asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n.")
        asked.set()
        await reader.read()
        writer.close()

    receiver = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = receiver.sockets[0].getsockname()[1]
    emulator = Emulator(account=account, clock=clock)
    async with receiver, emulator, connected(emulator) as api:
        await api.call(changes={"StatusCallback": f"http://127.0.0.1:{port}/"})
        clock.advance(100)
        await asked.wait()


async def test_a_file_from_a_clock_that_was_ahead_keeps_its_time(
    account: Account, tmp_path: Path, clock: ManualClock
) -> None:
    database, ahead = str(tmp_path / "calls.sqlite"), ManualClock(clock.now + 86_400)
    emulator = Emulator(account=account, database=database, clock=ahead)
    async with emulator, connected(emulator) as api:
        await api.call()
        ahead.advance(100)
        await api.page()
    emulator = Emulator(account=account, database=database, clock=clock)
    async with emulator, connected(emulator) as api:
        clock_time = await api.follow("/emulator/clock")
    assert clock_time["epoch"] >= clock.now + 86_400


async def test_an_incomplete_request_places_no_call(emulator: Emulator) -> None:
    basic = b64encode(f"{ACCOUNT.sid}:{ACCOUNT.auth_token}".encode()).decode()
    head = (
        f"POST {LIST} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {basic}\r\n"
        "Content-Length: 200\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    form = "To=%2B12025550123&From=%2B15005550006&Url=https%3A%2F%2Fexample.com%2Fvoi"
    url = httpx.URL(emulator.base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write((head + form).encode())
    writer.write_eof()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    assert emulator.calls.count() == 0
