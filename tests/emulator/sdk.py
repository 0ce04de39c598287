"""The official client library, connected to an emulator."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

from calls_mcp.emulator import Account, Emulator, ManualClock
from calls_mcp.emulator.testing import running

CALLER = "+15005550006"
CALLEE = "+12025550123"
TWIML = '<Response><Pause length="20"/></Response>'


@contextmanager
def library_client(base_url: str, account: Account) -> Generator[Client]:
    http = TwilioHttpClient(timeout=30)
    client = Client(account.sid, account.auth_token, http_client=http)
    client.api.base_url = base_url
    try:
        yield client
    finally:
        if http.session:
            http.session.close()


@dataclass(frozen=True)
class SdkClient:
    """A client and its emulator."""

    client: Client
    emulator: Emulator

    def advance(self, seconds: float) -> None:
        """Advance the emulator's clock."""
        assert isinstance(self.emulator.clock, ManualClock)
        self.emulator.clock.advance(seconds)

    def call(self, to: str = CALLEE, /, **changes: object) -> str:
        """Place a call and return its SID."""
        arguments = {"to": to, "from_": CALLER, "twiml": TWIML} | changes
        sid = self.client.calls.create(**arguments).sid  # pyright: ignore[reportArgumentType] - any of its arguments
        assert sid
        return sid


@contextmanager
def sdk_client(emulator: Emulator) -> Generator[SdkClient]:
    """A client of an emulator that runs while the context is open."""
    with running(emulator), library_client(emulator.base_url, emulator.account) as client:
        yield SdkClient(client, emulator)
