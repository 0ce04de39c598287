"""The long form: `python -m tests.chaos --ops 10000 [--seed N]`."""

import argparse
import sys
from collections.abc import Iterator, Sequence

import anyio

from tests.chaos.run import Failure, check_logs, kept_logs, run_worlds
from tests.chaos.world import Totals

_IN_ONE_WORLD = 100  # operations


def main() -> int:
    """Run it, write the totals, and return the exit status."""
    options = _parser().parse_args()
    operations = min(options.ops, _IN_ONE_WORLD)
    seeds = range(options.seed, options.seed + options.ops // operations)
    with kept_logs() as logs:
        totals, failures = anyio.run(run_worlds, seeds, operations, options.width)
    lines = [*_totals(totals), *_failures(failures, operations)]
    sys.stdout.write("\n".join(lines) + "\n")
    check_logs(logs)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--ops", type=int, default=10_000, help="operations, 100 in each world")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first world")
    parser.add_argument("--width", type=int, default=8, help="worlds at a time")
    return parser


def _totals(totals: Totals) -> Iterator[str]:
    for title, counts in totals.by_title().items():
        yield title
        yield from (f"  {name}: {count:,}" for name, count in counts.most_common())


def _failures(failures: Sequence[Failure], operations: int) -> Iterator[str]:
    for failure in failures:
        yield f"VIOLATION: {failure.what}"
        yield f"To see it again: python -m tests.chaos --ops {operations} --seed {failure.seed}"
    if failures:
        yield from ("History of the first:", *failures[0].history)


if __name__ == "__main__":
    sys.exit(main())
