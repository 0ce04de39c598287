"""The MCP request that is being served, and the ids by which all that is told of it is found."""

import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from opentelemetry import trace
from opentelemetry.propagate import extract


@dataclass(frozen=True, slots=True)
class RequestContext:
    """An MCP request, and whom it is from.

    `is_foreign` is whether its client began the trace, and `trace_id` what the API is then told.
    """

    id: str
    principal: str
    is_foreign: bool
    trace_id: int = field(default_factory=lambda: secrets.randbits(128) or 1)


_served: ContextVar[RequestContext | None] = ContextVar("served", default=None)


@contextmanager
def request_context(meta: Mapping[str, object] | None, principal: str) -> Generator[None]:
    """Serve an MCP request with this `_meta`: all that is told meanwhile bears one id."""
    serving = RequestContext(secrets.token_hex(8), principal, _is_traced(meta))
    before = _served.set(serving)
    trace.get_current_span().set_attribute("calls_mcp.request_id", serving.id)
    try:
        yield
    finally:
        _served.reset(before)


def current_request() -> RequestContext | None:
    """The request that is being served, if one is."""
    return _served.get()


def current_ids() -> dict[str, str]:
    """The request that is being served, whose it is, its trace and span, where there are any."""
    serving, span = current_request(), trace.get_current_span().get_span_context()
    ids = {"request_id": serving.id, "principal": serving.principal} if serving else {}
    if span.is_valid:
        ids["trace_id"] = trace.format_trace_id(span.trace_id)
        ids["span_id"] = trace.format_span_id(span.span_id)
    return ids


def _is_traced(meta: Mapping[str, object] | None) -> bool:
    """Whether a client sent a trace context along, as the SDK would take it."""
    try:
        context = extract(meta) if meta else None
    except (ValueError, TypeError):
        return False
    return context is not None and trace.get_current_span(context).get_span_context().is_valid
