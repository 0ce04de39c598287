"""A process that places calls on its own emulator and prints their SIDs."""

import asyncio
import sys

from calls_mcp.emulator import Emulator

from .api_client import ACCOUNT, connected


async def write(database: str, count: int) -> None:
    async with (
        Emulator(account=ACCOUNT, database=database) as emulator,
        connected(emulator) as api,
    ):
        api.client.timeout = 60
        for _ in range(count):
            sys.stdout.write(f"{await api.call()}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], int(sys.argv[2])))
