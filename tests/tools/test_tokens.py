"""What a model reads stays within the budgets of `tests/benchmarks/tokens.py`."""

from importlib.util import find_spec

import pytest

from calls_mcp.emulator import seed_history
from tests.benchmarks.tokens import budgets
from tests.rig import Rig

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(find_spec("rs_bpe") is None, reason="no rs-bpe: pip install rs-bpe"),
]


async def test_the_tools_and_a_page_of_calls_keep_to_their_budget_of_tokens(rig: Rig) -> None:
    seed_history(rig.emulator.calls, 1, 100, rig.clock())
    async with rig.connect() as agent:
        tools = await agent.client.list_tools()
        listed = await agent.client.call_tool("list_calls")
    shown, page = (
        r.model_dump(mode="json", by_alias=True, exclude_none=True) for r in (tools, listed)
    )
    assert page["structuredContent"]["count"] == 50
    over = {f.name: f.result for f in budgets(shown["tools"], page) if not f.is_met}
    assert over == {}
