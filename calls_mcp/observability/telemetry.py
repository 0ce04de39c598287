"""Spans and measures, by OpenTelemetry's API: without its SDK they come to nothing.

They tell tools, outcomes, rules, statuses, durations and SIDs; never a number, an argument or a
secret. What labels a measure is one of a few known words.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Span, SpanKind, StatusCode

from calls_mcp import __version__
from calls_mcp.errors import InvocationError
from calls_mcp.observability import correlation

_STATES = ("closed", "half_open", "open")
_EVENTS = {
    "asked": "asked",
    "allowed": "accepted",
    "declined": "declined",
    "expired": "expired",
    "replayed": "replayed",
}
_DENIED = "policy_denied"
_STATUSES = frozenset(HTTPStatus)

_log = logging.getLogger(__name__)
_tracer = trace.get_tracer("calls-mcp", __version__)
_meter = metrics.get_meter("calls-mcp", __version__)
_invocations = _meter.create_counter(
    "calls_mcp.invocations", description="Invocations by tool, outcome and kind of error"
)
_confirmations = _meter.create_counter(
    "calls_mcp.confirmations", description="Confirmations by tool and what became of them"
)
_denials = _meter.create_counter(
    "calls_mcp.policy.denials", description="Refusals by the operator's policy, by tool and rule"
)
_refusals = _meter.create_counter(
    "calls_mcp.http.refusals", description="HTTP requests that were refused, by status"
)
_durations = _meter.create_histogram(
    "calls_mcp.upstream.duration",
    unit="s",
    explicit_bucket_boundaries_advisory=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    description="One attempt at a request to the Calls API, by its effect and the answer's status",
)
_retries = _meter.create_counter(
    "calls_mcp.upstream.retries", description="Attempts after a first one, by effect and why"
)


@dataclass(slots=True)
class _Sending:
    """A request to the Calls API: how often it was tried, and why the last attempt failed."""

    attempts: int = 0
    failure: str = ""


_sending: ContextVar[_Sending | None] = ContextVar("sending", default=None)
_breakers: set[Callable[[], str]] = set()


def record_invocation(tool: str, outcome: str, *, error_kind: str = "", sid: str = "") -> None:
    """Tell what became of an invocation."""
    labels = {"tool": tool, "outcome": outcome}
    _invocations.add(1, labels | {"error_kind": error_kind})
    span = trace.get_current_span()
    told = _present(outcome=outcome, error_kind=error_kind, sid=sid)
    span.set_attributes({f"calls_mcp.{key}": value for key, value in told.items()})
    _log.info("%s: %s", tool, error_kind or outcome, extra={"fields": {"tool": tool} | told})


@contextmanager
def guard_span() -> Generator[None]:
    """The span in which it is decided whether a change goes ahead."""
    with _span("guard", {"calls_mcp.decision": "allowed"}):
        yield


def record_decision(
    tool: str, decision: str, *, by: str = "none", rule: str = "", error_kind: str = ""
) -> None:
    """Tell what was decided about a change, in the words of the audit log."""
    told = _present(decision=decision, confirmed_by=by, rule=rule, error_kind=error_kind)
    attributes = {f"calls_mcp.{key}": value for key, value in told.items()}
    trace.get_current_span().set_attributes(attributes)
    if decision in _EVENTS and (decision != "allowed" or by != "none"):
        _confirmations.add(1, {"tool": tool, "event": _EVENTS[decision]})
    if error_kind == _DENIED:
        record_denial(tool, rule)


def record_denial(tool: str, rule: str) -> None:
    """Count a refusal by a rule of the operator's."""
    _denials.add(1, {"tool": tool, "rule": rule})


def record_http_refusal(status: int, principal: str) -> None:
    """Tell of an HTTP request that was refused; `principal` is empty if they are not known."""
    _refusals.add(1, {"status": status})
    told = _present(principal=principal)
    _log.info("HTTP %d", status, extra={"fields": {"status": status} | told})


@contextmanager
def upstream(method: str, effect: str) -> Generator[None]:
    """The span of a request to the Calls API, with all attempts at it."""
    sending = _Sending()
    before = _sending.set(sending)
    attributes = {"http.request.method": method, "calls_mcp.effect": effect}
    try:
        with _span(f"upstream {effect}", attributes) as span:
            try:
                yield
            finally:
                span.set_attribute("calls_mcp.attempts", sending.attempts)
    finally:
        _sending.reset(before)


class Attempt:
    """One attempt at a request; `status` is the API's, once it has answered."""

    def __init__(self) -> None:
        self.status: int | None = None


@contextmanager
def attempt(method: str, effect: str) -> Generator[Attempt]:
    """The span of one attempt, from the request to the end of its answer."""
    sending = _sending.get() or _Sending()
    sending.attempts += 1
    if sending.attempts > 1:
        _retries.add(1, {"effect": effect, "error_kind": sending.failure})
    attributes = {
        "http.request.method": method,
        "http.request.resend_count": sending.attempts - 1,
        "calls_mcp.effect": effect,
    }
    trying, begun, failure = Attempt(), time.perf_counter(), ""
    with _span(f"attempt {method}", attributes, SpanKind.CLIENT) as span:
        try:
            yield trying
        except BaseException as error:
            failure = _kind(error)
            if isinstance(error, InvocationError):
                trying.status = error.status
            raise
        finally:
            sending.failure = failure
            if trying.status is not None:
                span.set_attribute("http.response.status_code", trying.status)
            seconds = time.perf_counter() - begun
            _attempted(method, effect, sending, trying.status, seconds)


def _attempted(
    method: str, effect: str, sending: _Sending, status: int | None, seconds: float
) -> None:
    known = "none" if status is None else str(status) if status in _STATUSES else "other"
    _durations.record(seconds, {"effect": effect, "status": known})
    told = _present(effect=effect, status=known, error_kind=sending.failure)
    fields = told | {"attempt": sending.attempts, "seconds": round(seconds, 3)}
    _log.info(
        "%s to the API, attempt %d: %s", method, sending.attempts, known, extra={"fields": fields}
    )


def headers() -> dict[str, str]:
    """The trace context that an attempt tells the API: `traceparent`, if it is recorded.

    Its trace is that of the request only if no client began it: a client's is its own words, and
    these don't leave for a third party. Nothing else (`tracestate`, `baggage`) is ever told.
    """
    span, serving = trace.get_current_span(), correlation.current_request()
    context = span.get_span_context()
    if not span.is_recording():
        return {}
    trace_id = trace.format_trace_id(context.trace_id)
    if serving and serving.is_foreign:
        trace_id = trace.format_trace_id(serving.trace_id)
        span.set_attribute("calls_mcp.upstream.trace_id", trace_id)
    span_id = trace.format_span_id(context.span_id)
    return {"traceparent": f"00-{trace_id}-{span_id}-{context.trace_flags:02x}"}


@contextmanager
def observe_circuit(state: Callable[[], str]) -> Generator[None]:
    """Measure the state of a circuit breaker (closed, half_open, open), asked for in any thread."""
    _breakers.add(state)
    try:
        yield
    finally:
        _breakers.discard(state)


def _breakers_by_state(_options: CallbackOptions) -> Iterable[Observation]:
    states = Counter(state() for state in tuple(_breakers))
    return [Observation(states[state], {"state": state}) for state in _STATES] if states else []


_meter.create_observable_gauge(
    "calls_mcp.upstream.breakers",
    callbacks=[_breakers_by_state],
    description="Circuit breakers in each state",
)


@contextmanager
def _span(
    name: str, attributes: Mapping[str, str | int], kind: SpanKind = SpanKind.INTERNAL
) -> Generator[Span]:
    """A span that tells of a failure by its kind alone, since messages repeat arguments."""
    with _tracer.start_as_current_span(
        name,
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as error:
            span.set_attribute("error.type", _kind(error))
            span.set_status(StatusCode.ERROR)
            raise


def _kind(error: BaseException) -> str:
    return error.kind if isinstance(error, InvocationError) else type(error).__name__


def _present(**values: str) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
