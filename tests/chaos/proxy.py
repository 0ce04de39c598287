"""A proxy between the server and the emulator that causes faults.

Every fault is plausible: a response that says that a request was not processed (a 4xx except 408)
is only sent if the request was not forwarded.
"""

import asyncio
import struct
from base64 import b64decode
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from email.utils import formatdate
from random import Random
from socket import SO_LINGER, SOL_SOCKET
from urllib.parse import parse_qsl, urlsplit

import anyio

from tests.chaos.model import markers
from tests.upstream import Exchange, Request, Step, answer, drop, endless, hang, redirect

PAGE = "<html><body><h1>Bad gateway</h1></body></html>"
_PACE = 0.1  # seconds between two pieces of a slow body: within the timeout, beyond the deadline
_ODD_STATUSES = (200, 201, 202, 203, 206)


@dataclass(frozen=True)
class Answer:
    """The emulator's response."""

    status: int
    body: bytes


Fault = Callable[[Exchange, "Proxy"], Awaitable[None]]
"""What becomes of an exchange, and whether and when its request is sent on."""


def before(step: Step) -> Fault:
    """Respond without forwarding the request."""

    async def play(exchange: Exchange, _proxy: "Proxy") -> None:
        await step(exchange)

    return play


def after(spoilt: Callable[[Answer], Step]) -> Fault:
    """Forward the request, and damage the response."""

    async def play(exchange: Exchange, proxy: "Proxy") -> None:
        await spoilt(await proxy.forward(exchange.request))(exchange)

    return play


async def faithful(exchange: Exchange, proxy: "Proxy") -> None:
    """No fault."""
    told = await proxy.forward(exchange.request)
    await answer(told.status, told.body)(exchange)


async def closing_behind(exchange: Exchange, proxy: "Proxy") -> None:
    """Send the whole response, and close the connection although it should be kept."""
    await faithful(exchange, proxy)
    exchange.writer.close()


async def late(exchange: Exchange, proxy: "Proxy") -> None:
    """Forward the request only after its client has given up and others have come."""
    with suppress(ConnectionError):
        await hang(exchange)
    await proxy.later(3)
    await proxy.forward(exchange.request)


async def reset(exchange: Exchange) -> None:
    """Break the connection off with a TCP reset."""
    connection = exchange.writer.get_extra_info("socket")
    connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    exchange.writer.close()


async def echo(exchange: Exchange) -> None:
    """Refuse, and repeat the credentials in the refusal."""
    authorization = exchange.request.headers.get("authorization", "")
    credentials = b64decode(authorization.partition(" ")[2]).decode()
    message = f"No access for {credentials} ({authorization})"
    await answer(401, {"code": 20003, "message": message, "status": 401})(exchange)


def cut(told: Answer) -> Step:
    """Send half of the JSON as a complete response."""
    return answer(told.status, told.body[: len(told.body) // 2])


def broken_off(told: Answer) -> Step:
    """Send a body that ends before its length."""
    return answer(told.status, told.body[:20], length=len(told.body) + 1)


def with_odd_status(told: Answer) -> Step:
    """Send another 2xx than the documented one. The body of an error is then not a call."""
    odd = _ODD_STATUSES[len(told.body) % len(_ODD_STATUSES)]
    return answer(odd, told.body or {})


def dripping(told: Answer) -> Step:
    """Send a body byte by byte, each within the timeout."""
    if not told.body:
        return answer(told.status)

    async def play(exchange: Exchange) -> None:
        length = len(told.body) + 1000
        head = f"HTTP/1.1 {told.status} Slow\r\nContent-Length: {length}\r\n\r\n"
        await exchange.send(head.encode())
        for byte in told.body.ljust(length):
            await exchange.send(bytes([byte]))
            await asyncio.sleep(_PACE)

    return play


# Faults after which it is unknown whether the request was processed.
_LOST: Mapping[str, Step] = {
    "reset": reset,
    "close": drop,
    "silence": hang,
    "endless": endless(b" " * 2**20),
    "500": answer(500, {"code": 20500, "message": "Internal error", "status": 500}),
    "502 html": answer(502, PAGE),
    "503 retry": answer(503, headers={"Retry-After": "1"}),
    "408": answer(408),
    "200 html": answer(200, PAGE),
    "200 {}": answer(200, {}),
    "200 null": answer(200, b"null"),
    "302": redirect("http://127.0.0.1:1/elsewhere"),
}

# Faults that say that it was not processed.
_REFUSED: Mapping[str, Step] = {
    "400": answer(400, {"code": 21211, "message": "Invalid", "status": 400}),
    "401 echo": echo,
    "403 html": answer(403, PAGE),
    "404 html": answer(404, PAGE),
    "409": answer(409),
    "429": answer(429, {"code": 20429, "message": "Too many", "status": 429}),
    "429 now": answer(429, headers={"Retry-After": "0"}),
    "429 later": answer(429, PAGE, headers={"Retry-After": "30"}),
    "429 long ago": answer(429, headers={"Retry-After": formatdate(0, usegmt=True)}),
    "429 nonsense": answer(429, headers={"Retry-After": "soon"}),
}

_SPOILT: Mapping[str, Callable[[Answer], Step]] = {
    "cut": cut,
    "broken off": broken_off,
    "odd status": with_odd_status,
    "dripping": dripping,
    "empty": lambda told: answer(told.status),
}


def _always(step: Step) -> Callable[[Answer], Step]:
    return lambda _: step


FAULTS: Mapping[str, Fault] = {
    "closing behind": closing_behind,
    "late": late,
    **{f"{name}, before": before(step) for name, step in (_LOST | _REFUSED).items()},
    **{f"{name}, after": after(_always(step)) for name, step in _LOST.items()},
    **{f"{name}, after": after(spoilt) for name, spoilt in _SPOILT.items()},
}

# Not plausible: the request was processed. For a test of the invariants.
LIES: Mapping[str, Fault] = {"429, after": after(_always(_REFUSED["429 now"]))}


class Proxy:
    """Causes faults at `rate` (0 to 1), and forwards the other requests to `base_url`.

    It is the only step of an `Upstream`. `sent` counts the changes that the server has sent, by
    their markers, whether or not they were forwarded; `arrived` counts all requests.
    """

    def __init__(
        self, base_url: str, random: Random, rate: float, faults: Mapping[str, Fault]
    ) -> None:
        self.played: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.arrived = 0
        self._address = urlsplit(base_url)
        self._random = random
        self._rate = rate
        self._faults = [*faults.items()]
        self._active = 0
        self._is_resting = False
        self._moved = anyio.Condition()

    async def __call__(self, exchange: Exchange) -> None:
        """Handle one exchange."""
        request = exchange.request
        self.sent.update(markers(request.method, request.target, parse_qsl(request.body.decode())))
        name, fault = "none", faithful
        if self._random.random() < self._rate:
            name, fault = self._random.choice(self._faults)
        self.played[name] += 1
        await self._count(arrived=1, active=1)
        try:
            await fault(exchange, self)
        finally:
            await self._count(active=-1)

    async def arrivals(self, count: int) -> None:
        """Wait until this many requests have arrived."""
        await self._until(lambda: self.arrived >= count)

    async def later(self, requests: int) -> None:
        """Wait until this many more requests have arrived, or none can be late any more."""
        due = self.arrived + requests
        await self._until(lambda: self.arrived >= due or self._is_resting)

    async def idle(self) -> None:
        """Forward all late requests, and wait until none is in progress."""
        self._is_resting = True
        await self._count(active=0)
        await self._until(lambda: not self._active)
        self._is_resting = False

    async def forward(self, request: Request) -> Answer:
        """Forward a request to the emulator."""
        host, port = self._address.hostname, self._address.port
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError as error:  # a loop that was just cancelled during a connect may fail
            raise ConnectionError("nothing was sent on") from error
        with closing(writer):
            writer.write(_raw(request))
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return Answer(int(head.split(b" ", 2)[1]), body)

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with self._moved:
            while not holds():
                await self._moved.wait()

    async def _count(self, *, arrived: int = 0, active: int) -> None:
        async with self._moved:
            self.arrived += arrived
            self._active += active
            self._moved.notify_all()


def _raw(request: Request) -> bytes:
    headers = {**request.headers, "connection": "close"}
    lines = [
        f"{request.method} {request.target} HTTP/1.1",
        *(f"{k}: {v}" for k, v in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + request.body
