"""The current MCP request, and the ids in its log lines and spans."""

import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from opentelemetry import trace
from opentelemetry.propagate import extract


@dataclass(frozen=True, slots=True)
class RequestContext:
    """An MCP request and its principal.

    `is_foreign` says whether the client began the trace. If so, the API gets `trace_id` instead of
    the client's.
    """

    id: str
    principal: str
    is_foreign: bool
    trace_id: int = field(default_factory=lambda: secrets.randbits(128) or 1)


_current: ContextVar[RequestContext | None] = ContextVar("request", default=None)


@contextmanager
def request_context(meta: Mapping[str, object] | None, principal: str) -> Generator[None]:
    """Set the current request, from its `_meta`, while the context is open."""
    current = RequestContext(secrets.token_hex(8), principal, _is_traced(meta))
    before = _current.set(current)
    trace.get_current_span().set_attribute("calls_mcp.request_id", current.id)
    try:
        yield
    finally:
        _current.reset(before)


def current_request() -> RequestContext | None:
    """Return the current request, if there is one."""
    return _current.get()


def current_ids() -> dict[str, str]:
    """Return the current request's id and principal, and the trace and span ids."""
    current, span = current_request(), trace.get_current_span().get_span_context()
    ids = {"request_id": current.id, "principal": current.principal} if current else {}
    if span.is_valid:
        ids["trace_id"] = trace.format_trace_id(span.trace_id)
        ids["span_id"] = trace.format_span_id(span.span_id)
    return ids


def _is_traced(meta: Mapping[str, object] | None) -> bool:
    """Return whether the client sent a trace context that the SDK accepts."""
    try:
        context = extract(meta) if meta else None
    except (ValueError, TypeError):
        return False
    return context is not None and trace.get_current_span(context).get_span_context().is_valid
