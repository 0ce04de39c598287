from collections.abc import AsyncGenerator, Generator

import pytest

from calls_mcp.emulator import Account, Emulator, ManualClock

from .customer import ACCOUNT, Customer, using
from .judge import Judge, judging


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def account() -> Account:
    return ACCOUNT


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def emulator(account: Account, clock: ManualClock) -> AsyncGenerator[Emulator]:
    async with Emulator(account=account, clock=clock) as emulator:
        yield emulator


@pytest.fixture
async def customer(emulator: Emulator) -> AsyncGenerator[Customer]:
    async with using(emulator) as customer:
        yield customer


@pytest.fixture
def judge(account: Account, clock: ManualClock) -> Generator[Judge]:
    """The official client library, and an emulator of its own."""
    with judging(Emulator(account=account, clock=clock)) as judge:
        yield judge
