"""Makes the README's pictures anew: `python -m tests.screenshots`, or those of one `console`.

Chromium must be there (Debian's package `chromium`).
"""

import sys
from pathlib import Path

import anyio

from tests.screenshots import console, inspector

IMAGES = Path(__file__).parents[2] / "docs" / "images"
LARGEST = 300_000  # bytes of a picture


def main(wanted: list[str]) -> None:
    if unknown := {*wanted} - {"console", "inspector"}:
        sys.exit(f"There are pictures of console and inspector, and none of {', '.join(unknown)}.")
    if not wanted or "console" in wanted:
        anyio.run(console.take, _keep)
    if not wanted or "inspector" in wanted:
        inspector.take(_keep)


def _keep(name: str, picture: bytes) -> None:
    print(f"{name}.png: {len(picture)} bytes")  # noqa: T201
    assert len(picture) <= LARGEST, name
    (IMAGES / f"{name}.png").write_bytes(picture)


if __name__ == "__main__":
    main(sys.argv[1:])
