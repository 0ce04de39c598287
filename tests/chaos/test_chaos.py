"""The short form; `python -m tests.chaos` is the long one."""

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.operations import OPERATIONS, Operation
from tests.chaos.proxy import LIES
from tests.chaos.run import Failed, check_logs, kept_logs, run_world, run_worlds

pytestmark = pytest.mark.anyio


async def test_nothing_happens_twice_or_silently_whatever_the_network_does() -> None:
    with kept_logs() as logs:
        totals, failures = await run_worlds(range(6), operations=20, width=6)
    assert not failures
    check_logs(logs)
    assert totals.operations.total() == 6 * 20
    assert totals.figures["acted on"] > 0


@given(
    seed=st.integers(0, 2**32 - 1),
    operations=st.lists(st.sampled_from([*OPERATIONS]), min_size=1, max_size=30),
)
@settings(max_examples=6)
def test_no_sequence_of_operations_breaks_an_invariant(
    seed: int, operations: list[Operation]
) -> None:
    """A failure shrinks to the fewest operations that cause it."""
    totals = anyio.run(run_world, seed, operations)
    assert totals.operations.total() == len(operations)


async def test_the_model_notices_a_call_that_is_placed_twice() -> None:
    with pytest.raises(Failed, match=r"acted on [0-9] times, but told or unknown only"):
        await run_world(seed=0, operations=30, faults=LIES)
