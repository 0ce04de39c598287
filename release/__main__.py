"""Build a release into `dist/`: `python -m release`."""

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

from release.bundle import build_bundle
from release.project import ROOT


def main() -> None:
    """Build the release, and print the hash of each file."""
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist", help="output folder (default: dist)"
    )
    folder: Path = parser.parse_args().out
    if folder.is_dir() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty. Empty it, or choose another folder with --out.")
    build(folder)
    for file in sorted(folder.iterdir()):
        print(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}")  # noqa: T201


def build(folder: Path) -> None:
    """Build sdist, wheel and bundle into `folder`, with the build backend of this environment."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  # ours
    (wheel,) = folder.glob("*.whl")
    build_bundle(wheel, folder)


if __name__ == "__main__":
    main()
