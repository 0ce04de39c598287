"""What verifies bearer tokens, by the settings."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from calls_mcp.service.grants import Grant
from calls_mcp.settings import Settings


class Verifier(Protocol):
    """Verifies tokens, as the SDK has it do."""

    async def verify_token(self, token: str) -> Grant | None:
        """Return what a token grants, if anything.

        Raises:
            AuthenticationError: That can't be found out just now.
        """
        ...


def open_verifier(
    settings: Settings, clock: Callable[[], float] = time.monotonic
) -> Verifier | None:
    """Return what the settings say tokens are verified by; None if callers need none.

    `clock` gives seconds that never go back.

    Raises:
        ConfigurationError: The file of principals is wrong.
    """
    if settings.auth.mode == "none":
        return None
    if settings.auth.mode == "tokens":
        from calls_mcp.http.principals import PrincipalsFile  # noqa: PLC0415
        from calls_mcp.http.tokens import FileVerifier  # noqa: PLC0415

        return FileVerifier(PrincipalsFile(settings.auth.principals or Path()))
    from calls_mcp.http.oauth import open_issuer  # noqa: PLC0415

    return open_issuer(settings, clock)
