"""Completion of arguments of prompts and resource templates."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from typing import TYPE_CHECKING, Literal

import anyio
import mcp_types as types

from calls_mcp.guard.policy.destinations import allows_caller
from calls_mcp.observability.redaction import quoted
from calls_mcp.server.permissions import Context, Permissions, invalid_params, principal_of
from calls_mcp.server.prompts import Prompts
from calls_mcp.server.resources import CALL, DOCS
from calls_mcp.service.grants import current_overrides
from calls_mcp.tools.call_summary import CallSummary

if TYPE_CHECKING:
    from calls_mcp.settings import Access

_log = logging.getLogger(__name__)

_MOST = 100  # values in a result, the maximum of the specification
_RECENT = 100  # calls
_FRESH = 10  # seconds
_DAYS = 7
_READING = "list_calls"
_TEMPLATES = {DOCS: ("tool",), CALL: ("sid",)}
_OUTBOUND = "outbound-api"
_WILD = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class _Values:
    """The possible values of an argument; `is_partial` if there are more than these."""

    values: Iterable[str] = ()
    is_partial: bool = False


@dataclass(slots=True, eq=False)
class _Recent:
    """The newest calls that a principal can see, and when they were read."""

    at: float = -inf
    calls: tuple[CallSummary, ...] = ()
    is_partial: bool = False
    reading: anyio.Lock = field(default_factory=anyio.Lock)


class Completions:
    """Completes values from their first characters."""

    def __init__(self, permissions: Permissions, prompts: Prompts) -> None:
        self._permissions = permissions
        self._prompts = prompts
        self._kept: dict[tuple[str, Access], _Recent] = {}

    async def complete(
        self, ctx: Context, params: types.CompleteRequestParams
    ) -> types.CompleteResult:
        """Return the values that begin with what was typed.

        Raises:
            MCPError: The prompt, template or argument does not exist.
        """
        argument = params.argument
        known = self._arguments(params.ref)
        if argument.name not in known:
            available = ", ".join(known) or "none"
            raise invalid_params(
                f"Unknown argument {quoted(argument.name, 40)}. Available: {available}"
            )
        found = await self._values(ctx, argument.name, known[argument.name])
        begun = argument.value.casefold()
        values = [v for v in dict.fromkeys(found.values) if v.casefold().startswith(begun)]
        return types.CompleteResult(
            completion=types.Completion(
                values=values[:_MOST],
                total=None if found.is_partial else len(values),
                has_more=found.is_partial or len(values) > _MOST,
            )
        )

    def _arguments(
        self, ref: types.ResourceTemplateReference | types.PromptReference
    ) -> Mapping[str, tuple[str, ...]]:
        """Return the arguments, each with its allowed values if they are limited."""
        if isinstance(ref, types.PromptReference):
            return {a.name: a.choices for a in self._prompts.prompt(ref.name).arguments}
        if ref.uri == CALL:
            self._permissions.operation("fetch_call", {"uri": ref.uri})
        if ref.uri not in _TEMPLATES:
            wrong = quoted(ref.uri, 100)
            available = ", ".join(_TEMPLATES)
            raise invalid_params(
                f"Unknown template {wrong}. Available: {available}", {"uri": ref.uri}
            )
        return dict.fromkeys(_TEMPLATES[ref.uri], ())

    async def _values(self, ctx: Context, name: str, choices: tuple[str, ...]) -> _Values:
        match name:
            case "tool":
                return _Values(self._permissions.permitted())
            case "date":
                return _Values(self._days())
            case "sid":
                recent = await self._recent(ctx)
                calls = sorted(recent.calls, key=lambda call: not call.live)
                return _Values([call.sid for call in calls], recent.is_partial)
            case "to":
                recent = await self._recent(ctx)
                return _Values(_parties(recent.calls, "to"), recent.is_partial)
            case "from":
                return await self._callers(ctx)
            case _:
                return _Values(choices)

    async def _callers(self, ctx: Context) -> _Values:
        """Return the caller IDs that the policy names, and recent ones that it allows."""
        policy = await self._permissions.runtime.policy(principal_of(ctx), current_overrides())
        recent = await self._recent(ctx)
        allowed = policy.caller_ids.allow
        named = [pattern for pattern in allowed if not _WILD & {*pattern}]
        used = _parties(recent.calls, "from")
        fitting = [caller for caller in used if not allowed or allows_caller(allowed, caller)]
        is_complete = bool(allowed) and len(named) == len(allowed)
        return _Values([*named, *fitting], recent.is_partial and not is_complete)

    def _days(self) -> list[str]:
        today = datetime.fromtimestamp(self._permissions.runtime.clock(), UTC).date()
        return [(today - timedelta(days=days)).isoformat() for days in range(_DAYS)]

    async def _recent(self, ctx: Context) -> _Recent:
        """Return the newest calls, read at most every few seconds; none if a read fails."""
        if _READING not in self._permissions.permitted():
            return _Recent()
        key = (principal_of(ctx), self._permissions.runtime.access_for(current_overrides()))
        now = anyio.current_time()
        self._kept = {
            k: kept
            for k, kept in self._kept.items()
            if now - kept.at < _FRESH or kept.reading.locked()
        }
        recent = self._kept.setdefault(key, _Recent())
        async with recent.reading:
            if anyio.current_time() - recent.at >= _FRESH:
                await self._read(ctx, recent)
        return recent

    async def _read(self, ctx: Context, recent: _Recent) -> None:
        outcome = await self._permissions.read_for(ctx, _READING, {"limit": _RECENT})
        if outcome.error:
            _log.warning("completion failed because calls can't be read: %s", outcome.error.kind)
        recent.calls = outcome.calls or ()
        recent.is_partial = outcome.next_cursor is not None
        recent.at = anyio.current_time()


def _parties(calls: Iterable[CallSummary], end: Literal["from", "to"]) -> list[str]:
    """Return the parties at one end of the calls that were placed through the API."""
    placed = (call for call in calls if call.direction == _OUTBOUND)
    return [party for call in placed if (party := call.from_ if end == "from" else call.to)]
