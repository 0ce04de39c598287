"""Run benchmarks: `python -m tests.benchmarks [NAME…] [--json FILE]`."""

import argparse
import json
from importlib import import_module
from pathlib import Path

NAMES = ("start", "fetch", "tokens", "pagination", "http", "guard", "console", "capacity", "voice")


def main() -> None:
    """Run the benchmarks, and print each result as soon as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    options = parser.parse_args()
    if unknown := {*options.names} - {*NAMES}:
        parser.error(f"unknown benchmark {', '.join(unknown)}. Choose from {', '.join(NAMES)}.")
    head = f"{'':44} {'ours':>10} {'reference':>10} {'':7} {'result':>9} {'spread':>13} {'goal':>8}"
    print(head)  # noqa: T201
    kept: list[dict[str, object]] = []
    for name in options.names or NAMES:
        for measurement in import_module(f"tests.benchmarks.{name}").measurements():
            print(measurement.as_row(), flush=True)  # noqa: T201
            kept.append(measurement.as_json())
    if options.json:
        options.json.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
