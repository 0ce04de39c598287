"""Run worlds concurrently, and report the results."""

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from tests.chaos.audit import check_audit
from tests.chaos.model import Violation, require
from tests.chaos.operations import Operation, draw_operation
from tests.chaos.proxy import FAULTS, Fault
from tests.chaos.world import Totals, World, open_world, require_secrecy


@dataclass(frozen=True)
class Failure:
    """A broken invariant, and everything done and reported until then."""

    seed: int
    what: str
    history: tuple[str, ...]


async def run_world(
    seed: int, operations: int | Sequence[Operation], faults: Mapping[str, Fault] = FAULTS
) -> Totals:
    """Run these operations, or this many random ones, in one world.

    Raises:
        Failed: The server broke an invariant.
    """
    with TemporaryDirectory() as folder:
        async with open_world(seed, Path(folder), faults) as world:
            broken: list[str] = []
            try:
                await _live(world, operations)
                await _settle(world)
            except* Violation as violations:
                broken += map(str, _each(violations))
            if broken:
                raise Failed(Failure(seed, broken[0], tuple(world.history)))
        return world.totals


async def run_worlds(seeds: range, operations: int, width: int) -> tuple[Totals, list[Failure]]:
    """Run one world for each of `seeds`, `width` at a time."""
    totals, failures = Totals(), list[Failure]()
    limiter = anyio.CapacityLimiter(width)

    async def run(seed: int) -> None:
        async with limiter:
            try:
                totals.add(await run_world(seed, operations))
            except Failed as failed:
                failures.append(failed.failure)
            except Exception as error:
                error.add_note(f"in the world of seed {seed}")
                raise

    async with anyio.create_task_group() as tasks:
        for seed in seeds:
            tasks.start_soon(run, seed)
    ended = totals.figures["worlds"] + len(failures)
    require(ended == len(seeds), "worlds were cancelled by what none of them did", ended)
    return totals, failures


class Failed(Exception):
    """One world's `failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"seed {failure.seed}: {failure.what}")
        self.failure = failure


def _drawn(world: World, count: int) -> Iterator[Operation]:
    """Yield random operations one by one, because others draw from the same generator."""
    return (draw_operation(world.random) for _ in range(count))


async def _live(world: World, operations: int | Iterable[Operation]) -> None:
    if isinstance(operations, int):
        operations = _drawn(world, operations)
    for operation in operations:
        world.history.append(f"-- {operation.__name__}")
        await operation(world)
        world.totals.operations[operation.__name__] += 1
        world.model.check()


async def _settle(world: World) -> None:
    """Collect the remaining results, wait until nothing is in progress, and check the model."""
    await world.learn()
    await world.stop()
    with anyio.fail_after(30):
        await world.proxy.idle()
    model, totals = world.model, world.totals
    model.check()
    records = await anyio.to_thread.run_sync(check_audit, world.audit_file, model)
    totals.faults += world.proxy.played
    done = [attempt for attempt in model.attempts if attempt.is_done]
    totals.figures.update(
        {
            "worlds": 1,
            "attempts": len(model.attempts),
            "acted on": model.acted.total(),
            "told done": len(done),
            "of them recovered": sum(attempt.is_recovered for attempt in done),
            "told unknown": sum(a.is_unknown and a.told is not None for a in model.attempts),
            "never heard": sum(a.is_approved and a.told is None for a in model.attempts),
            "audit records": records,
        }
    )


def _each(violations: BaseExceptionGroup[Violation]) -> Iterator[Violation]:
    for violation in violations.exceptions:
        if isinstance(violation, BaseExceptionGroup):
            yield from _each(violation)
        else:
            yield violation


@contextmanager
def kept_logs() -> Generator[list[str]]:
    """Yield everything that is logged meanwhile, each line with its level first."""
    lines: list[str] = []
    handler = _Keeper(lines)
    root, ours = logging.getLogger(), logging.getLogger("calls_mcp")
    root.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        ours.setLevel(logging.NOTSET)


def check_logs(lines: Sequence[str]) -> None:
    """Check that the logs have no credentials and no errors.

    Raises:
        Violation: They do.
    """
    require_secrecy("\n".join(lines))
    errors = [line for line in lines if line.startswith(("ERROR", "CRITICAL"))]
    require(not errors, "errors were logged", "\n".join(errors))


class _Keeper(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))
