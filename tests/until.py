"""Wait for what other tasks do."""

from collections.abc import Callable

import anyio

_PAUSE = 0.001  # seconds: spinning would take CPU time from the other tasks


async def until(holds: Callable[[], object], seconds: float = 30) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: It does not hold after `seconds`.
    """
    with anyio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110 - what changes it has no event
            await anyio.sleep(_PAUSE)
