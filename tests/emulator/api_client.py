"""A client of the emulated Calls API, in this process or over a socket."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from calls_mcp.emulator import Account, Emulator, ManualClock
from tests.plain_http import NO_CERTIFICATES

ACCOUNT = Account(
    sid=f"AC{1:032}", auth_token=f"{1:032}", api_keys={f"SK{1:032}": "made-up-secret"}
)
LIST = f"/2010-04-01/Accounts/{ACCOUNT.sid}/Calls.json"
STRANGER = "+12025550123"
FORM = {"To": STRANGER, "From": "+15005550006", "Url": "https://example.com/voice.xml"}

BUSY, NO_ANSWER, FAILED, MACHINE = (f"+1500555020{n}" for n in (1, 2, 3, 4))
TALKATIVE, SLOW, FAX, ABRUPT = (f"+1500555020{n}" for n in (5, 6, 7, 8))

Fields = Mapping[str, "str | list[str]"]
Json = dict[str, Any]


def item(sid: str) -> str:
    return f"/2010-04-01/Accounts/{ACCOUNT.sid}/Calls/{sid}.json"


def form_with(changes: Fields) -> Fields:
    """Return a form that places a call, with changes. An empty list removes a key."""
    return {**FORM, **changes}


@dataclass
class ApiClient:
    client: httpx.AsyncClient
    emulator: Emulator

    @property
    def clock(self) -> ManualClock:
        """The emulator's manual clock."""
        assert isinstance(self.emulator.clock, ManualClock)
        return self.emulator.clock

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def post(self, changes: Fields) -> httpx.Response:
        return await self.client.post(LIST, data=dict(form_with(changes)))

    async def call(self, to: str = STRANGER, changes: Fields | None = None) -> str:
        response = await self.post({"To": to, **(changes or {})})
        assert response.status_code == 201, response.text
        return response.json()["sid"]

    async def fetch(self, sid: str) -> Json:
        return await self.follow(item(sid))

    async def update(self, sid: str, changes: Fields) -> httpx.Response:
        return await self.client.post(item(sid), data=dict(changes))

    async def page(self, query: Mapping[str, str] | None = None) -> Json:
        return await self.follow(LIST, query)

    async def listed(self, query: Mapping[str, str] | None = None) -> list[str]:
        return [call["sid"] for call in (await self.page(query))["calls"]]

    async def follow(self, uri: str, query: Mapping[str, str] | None = None) -> Json:
        response = await self.client.get(uri, params=query)
        assert response.status_code == 200, response.text
        return response.json()


@asynccontextmanager
async def connected(emulator: Emulator) -> AsyncGenerator[ApiClient]:
    """Yield a client over a socket, or in this process if the emulator has no port."""
    credentials = emulator.account.sid, emulator.account.auth_token
    if emulator.port is None:
        transport = httpx.ASGITransport(emulator.app, raise_app_exceptions=False)
        client = httpx.AsyncClient(
            transport=transport, base_url="http://localhost", auth=credentials
        )
    else:
        client = httpx.AsyncClient(
            base_url=emulator.base_url, auth=credentials, verify=NO_CERTIFICATES
        )
    async with client:
        yield ApiClient(client, emulator)


def assert_refused(response: httpx.Response, status: int, code: int) -> None:
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    assert set(body) == {"code", "message", "more_info", "status"}
    assert body["more_info"] == f"https://www.twilio.com/docs/errors/{code}"
    assert body["status"] == status
    assert body["message"]
