"""The official client library, pointed at an emulator."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from twilio.http.http_client import TwilioHttpClient
from twilio.http.response import Response
from twilio.rest import Client

from calls_mcp.emulator import Account, Emulator
from calls_mcp.emulator.testing import running

SERVICE = "https://api.twilio.com"
CALLER = "+15005550006"
CALLEE = "+12025550123"
NOTHING: Mapping[str, object] = {}
TWIML = "<Response><Say>Hello</Say></Response>"


class Redirected(TwilioHttpClient):
    """The library's own HTTP client; only the host differs."""

    def __init__(self, base_url: str, timeout: float = 30) -> None:
        super().__init__(timeout=timeout)
        self.base_url = base_url

    def request(  # noqa: PLR0913, PLR0917 - the library's signature
        self,
        method: str,
        url: str,
        params: "dict[str, object] | None" = None,
        data: "dict[str, object] | None" = None,
        headers: "dict[str, str] | None" = None,
        auth: "tuple[str, str] | None" = None,
        timeout: float | None = None,
        allow_redirects: bool = False,  # noqa: FBT001, FBT002 - likewise
    ) -> Response:
        assert url.startswith(SERVICE)
        here = self.base_url + url.removeprefix(SERVICE)
        return super().request(method, here, params, data, headers, auth, timeout, allow_redirects)


@contextmanager
def client_of(base_url: str, account: Account) -> Generator[Client]:
    http = Redirected(base_url)
    try:
        yield Client(account.sid, account.auth_token, http_client=http)
    finally:
        if http.session:
            http.session.close()


@dataclass(frozen=True)
class Judge:
    """A client, and the emulator it talks to."""

    client: Client
    emulator: Emulator

    def call(self, to: str = CALLEE, wishes: Mapping[str, object] = NOTHING) -> str:
        """Place a call; its SID."""
        arguments = {"to": to, "from_": CALLER, "twiml": TWIML} | dict(wishes)
        sid = self.client.calls.create(**arguments).sid  # pyright: ignore[reportArgumentType] - any of its arguments
        assert sid
        return sid


@contextmanager
def judging(emulator: Emulator) -> Generator[Judge]:
    """A client of an emulator that runs while the context is open."""
    with running(emulator), client_of(emulator.base_url, emulator.account) as client:
        yield Judge(client, emulator)
