from collections.abc import AsyncGenerator, Generator

import pytest

from calls_mcp.emulator import Account, Emulator, ManualClock

from .api_client import ACCOUNT, ApiClient, connected
from .callback_receiver import Receiver, receiving
from .sdk import SdkClient, sdk_client


@pytest.fixture
def account() -> Account:
    return ACCOUNT


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def port() -> int | None:
    """Use no socket. A module whose tests need one overrides this."""
    return None


@pytest.fixture
async def emulator(
    account: Account, clock: ManualClock, port: int | None
) -> AsyncGenerator[Emulator]:
    async with Emulator(account=account, clock=clock, port=port, strict=True) as emulator:
        yield emulator


@pytest.fixture
async def api(emulator: Emulator) -> AsyncGenerator[ApiClient]:
    async with connected(emulator) as api:
        yield api


@pytest.fixture
def sdk(account: Account, clock: ManualClock) -> Generator[SdkClient]:
    """Return the official client library with its own emulator."""
    with sdk_client(Emulator(account=account, clock=clock, strict=True)) as sdk:
        yield sdk


@pytest.fixture
def receiver() -> Generator[Receiver]:
    """Return a web server that receives callbacks."""
    with receiving() as receiver:
        yield receiver
