"""`python -m tests.benchmarks [NAME…] [--json FILE]`: a table, and the same as JSON."""

import argparse
import json
from importlib import import_module
from pathlib import Path

NAMES = ("start", "fetch", "tokens", "walk", "http", "guard", "console", "capacity")


def main() -> None:
    """Measure, and print as it goes."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures in FILE")
    options = parser.parse_args()
    if unknown := {*options.names} - {*NAMES}:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    head = f"{'':44} {'ours':>10} {'reference':>10} {'':7} {'result':>9} {'spread':>13} {'goal':>8}"
    print(head)  # noqa: T201
    kept: list[dict[str, object]] = []
    for name in options.names or NAMES:
        for figure in import_module(f"tests.benchmarks.{name}").figures():
            print(figure.as_row(), flush=True)  # noqa: T201
            kept.append(figure.as_json())
    if options.json:
        options.json.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
