"""Take the screenshots in `docs/images`: `python -m tests.screenshots [console] [inspector]`.

This needs Chromium (Debian package `chromium`).
"""

import sys
from pathlib import Path

import anyio

from tests.screenshots import console, inspector

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MAX_SIZE = 300_000  # bytes of a picture


def main(names: list[str]) -> None:
    if unknown := {*names} - {"console", "inspector"}:
        sys.exit(f"Unknown screenshots: {', '.join(sorted(unknown))}. Use console or inspector.")
    if not names or "console" in names:
        anyio.run(console.take, _save)
    if not names or "inspector" in names:
        inspector.take(_save)


def _save(name: str, picture: bytes) -> None:
    print(f"{name}.png: {len(picture)} bytes")  # noqa: T201
    assert len(picture) <= MAX_SIZE, name
    (IMAGES / f"{name}.png").write_bytes(picture)


if __name__ == "__main__":
    main(sys.argv[1:])
