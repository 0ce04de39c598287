"""The long form: `python -m tests.chaos --ops 10000 [--seed N]`."""

import argparse
import sys
from collections import Counter

import anyio

from tests.chaos.ledger import Violation
from tests.chaos.run import Failure, logs_are_clean, run_worlds
from tests.chaos.world import Totals

_IN_ONE_WORLD = 100  # operations


def main() -> int:
    """Run it, print the totals, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--ops", type=int, default=10_000, help="operations, in worlds of 100")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first world")
    parser.add_argument("--width", type=int, default=8, help="worlds at a time")
    options = parser.parse_args()
    worlds = max(1, options.ops // _IN_ONE_WORLD)
    seeds = range(options.seed, options.seed + worlds)
    operations = min(options.ops, _IN_ONE_WORLD)
    try:
        with logs_are_clean():
            totals, failures = anyio.run(run_worlds, seeds, operations, options.width)
    except Violation as violation:
        print(violation)
        return 1
    _print_totals(totals)
    for failure in failures:
        _print_failure(failure, operations)
    return 1 if failures else 0


def _print_totals(totals: Totals) -> None:
    for title in ("operations", "faults", "outcomes", "figures"):
        counts: Counter[str] = getattr(totals, title)
        print(f"{title}: {counts.total() if title != 'figures' else ''}".rstrip())
        for name, count in counts.most_common():
            print(f"  {name}: {count:,}")


def _print_failure(failure: Failure, operations: int) -> None:
    print(f"\nVIOLATION: {failure.what}")
    print(f"To see it again: python -m tests.chaos --ops {operations} --seed {failure.seed}")
    print("\n".join(failure.history))


if __name__ == "__main__":
    sys.exit(main())
