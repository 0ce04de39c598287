import anyio
import pytest

from calls_mcp.guard import Binding
from calls_mcp.outcome import Outcome
from calls_mcp.store import MemoryStore, Pending

pytestmark = pytest.mark.anyio

PENDING = Pending(Binding("create_call", "digest", "tester"), state="", expires_at=1)
DONE: Outcome = {"outcome": "done"}


async def test_only_one_of_many_claims_succeeds() -> None:
    store = MemoryStore()
    await store.put("one", PENDING)
    assert [await store.claim("one") for _ in range(5)] == [True, False, False, False, False]


async def test_whoever_waits_for_the_outcome_gets_it_when_it_is_settled() -> None:
    store = MemoryStore()
    await store.put("one", PENDING)
    await store.claim("one")
    heard: list[Outcome] = []

    async def wait() -> None:
        heard.append(await store.outcome("one"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert heard == []
        await store.settle("one", DONE)
    assert heard == [DONE]


async def test_a_flood_of_questions_drops_the_oldest_that_is_not_in_flight() -> None:
    store = MemoryStore(capacity=3)
    for identifier in ("in flight", "oldest", "newer"):
        await store.put(identifier, PENDING)
    await store.claim("in flight")
    await store.put("newest", PENDING)
    kept = [name for name in ("in flight", "oldest", "newer", "newest") if await store.get(name)]
    assert kept == ["in flight", "newer", "newest"]
