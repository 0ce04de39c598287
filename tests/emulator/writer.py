"""A process that places calls on an emulator of its own, and tells the SIDs it was answered."""

import asyncio
import sys

import httpx

from calls_mcp.emulator import Emulator

from .customer import ACCOUNT, Customer


async def write(database: str, count: int) -> None:
    credentials = ACCOUNT.sid, ACCOUNT.auth_token
    async with (
        Emulator(account=ACCOUNT, database=database) as emulator,
        httpx.AsyncClient(base_url=emulator.base_url, auth=credentials, timeout=60) as client,
    ):
        customer = Customer(client)
        for _ in range(count):
            sys.stdout.write(f"{await customer.call()}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], int(sys.argv[2])))
