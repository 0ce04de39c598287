"""Approvals by an operator, and what happens between an approval and its use."""

from collections.abc import Callable

import pytest

from calls_mcp.guard.approval_requests import ApprovalRequests
from calls_mcp.storage.records import ApprovalRequest, Binding
from tests.harness import Agent, Harness


async def approve_next(harness: Harness, agent: Agent, call: dict[str, object]) -> None:
    """Request a call, and approve it as the operator."""
    await agent.call("create_call", **call)
    approvals = (await harness.runtime.changes()).approvals
    assert approvals
    (request,) = await approvals.pending()
    assert await approvals.decide(request, approve=True, by="ann")


def as_it_is_found(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """Let something happen after the policy allowed the next use of an approval."""
    find = ApprovalRequests.current

    async def find_later(self: ApprovalRequests, binding: Binding) -> ApprovalRequest | None:
        monkeypatch.setattr(ApprovalRequests, "current", find)
        happen()
        return await find(self, binding)

    monkeypatch.setattr(ApprovalRequests, "current", find_later)
