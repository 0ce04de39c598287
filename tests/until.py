"""Wait for what other tasks do."""

from collections.abc import Callable

import anyio

_PAUSE = 0.001  # seconds: to spin would take the processor from what is waited for


async def until(holds: Callable[[], object], seconds: float = 30) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: It does not hold after `seconds`.
    """
    with anyio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110 - what changes it has no event
            await anyio.sleep(_PAUSE)
