"""Spans and metrics with the OpenTelemetry API, which does nothing without its SDK.

They have tools, outcomes, rules, statuses, durations and SIDs, but never a phone number, an
argument or a secret. Metric labels have a small set of known values.
"""

import logging
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Protocol
from weakref import WeakSet

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Span, SpanKind, StatusCode

from calls_mcp import __version__
from calls_mcp.errors import InvocationError
from calls_mcp.observability.current_request import current_request

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
    "calls_mcp.invocations", description="Tool calls, by tool, outcome and kind of error"
)
_confirmations = _meter.create_counter(
    "calls_mcp.confirmations", description="Confirmations, by tool and event"
)
_denials = _meter.create_counter(
    "calls_mcp.policy.denials", description="Tool calls denied by the policy, by tool and rule"
)
_refusals = _meter.create_counter(
    "calls_mcp.http.refusals", description="Rejected HTTP requests, by status"
)
_durations = _meter.create_histogram(
    "calls_mcp.upstream.duration",
    unit="s",
    explicit_bucket_boundaries_advisory=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    description="Duration of each request attempt to the Calls API, by effect and status",
)
_retries = _meter.create_counter(
    "calls_mcp.upstream.retries",
    description="Retries of requests to the Calls API, by effect and kind of error",
)


class _CircuitBreaker(Protocol):
    @property
    def state(self) -> str: ...


_breakers = WeakSet[_CircuitBreaker]()


def record_invocation(tool: str, outcome: str, *, error_kind: str = "", sid: str = "") -> None:
    """Count and log a tool call, and set its outcome on the current span."""
    labels = {"tool": tool, "outcome": outcome}
    _invocations.add(1, labels | {"error_kind": error_kind})
    span = trace.get_current_span()
    known = _present(outcome=outcome, error_kind=error_kind, sid=sid)
    span.set_attributes({f"calls_mcp.{key}": value for key, value in known.items()})
    _log.info("%s: %s", tool, error_kind or outcome, extra={"fields": {"tool": tool} | known})


@contextmanager
def guard_span() -> Generator[None]:
    """Open the span of the decision about a change."""
    with _span("guard", {"calls_mcp.decision": "allowed"}):
        yield


def record_decision(
    tool: str, decision: str, *, by: str = "none", rule: str = "", error_kind: str = ""
) -> None:
    """Count a decision about a change, as named in the audit log, and set it on the span."""
    known = _present(decision=decision, confirmed_by=by, rule=rule, error_kind=error_kind)
    attributes = {f"calls_mcp.{key}": value for key, value in known.items()}
    trace.get_current_span().set_attributes(attributes)
    if decision in _EVENTS and (decision != "allowed" or by != "none"):
        _confirmations.add(1, {"tool": tool, "event": _EVENTS[decision]})
    if error_kind == _DENIED:
        record_denial(tool, rule)


def record_denial(tool: str, rule: str) -> None:
    """Count a denial by a rule of the policy."""
    _denials.add(1, {"tool": tool, "rule": rule})


def record_http_refusal(status: int, principal: str) -> None:
    """Count and log a rejected HTTP request; `principal` is empty if unknown."""
    _refusals.add(1, {"status": status})
    fields = {"status": status} | _present(principal=principal)
    client = principal or "an unauthenticated client"
    _log.info("rejected an HTTP request from %s: %d", client, status, extra={"fields": fields})


class UpstreamRequest:
    """A request to the Calls API; `status` is that of the last attempt, None without a response."""

    def __init__(self, method: str, effect: str) -> None:
        self.status: int | None = None
        self._method = method
        self._effect = effect
        self._attempts = 0
        self._failure = ""  # of the last attempt

    @contextmanager
    def span(self) -> Generator[None]:
        """Open the span of the request, which contains those of its attempts."""
        attributes = {"http.request.method": self._method, "calls_mcp.effect": self._effect}
        with _span(f"upstream {self._effect}", attributes) as span:
            try:
                yield
            finally:
                span.set_attribute("calls_mcp.attempts", self._attempts)

    @contextmanager
    def attempt_span(self) -> Generator[None]:
        """Open the span of one attempt, from the request to the end of its response."""
        if self._attempts:
            _retries.add(1, {"effect": self._effect, "error_kind": self._failure})
        attributes = {
            "http.request.method": self._method,
            "http.request.resend_count": self._attempts,
            "calls_mcp.effect": self._effect,
        }
        self._attempts += 1
        self.status, self._failure, started = None, "", time.perf_counter()
        with _span(f"attempt {self._method}", attributes, SpanKind.CLIENT) as span:
            try:
                yield
            except BaseException as error:
                self._failure = _kind(error)
                raise
            finally:
                if self.status is not None:
                    span.set_attribute("http.response.status_code", self.status)
                self._record_attempt(time.perf_counter() - started)

    def _record_attempt(self, seconds: float) -> None:
        status = self.status
        known = "none" if status is None else str(status) if status in _STATUSES else "other"
        _durations.record(seconds, {"effect": self._effect, "status": known})
        fields = _present(effect=self._effect, status=known, error_kind=self._failure)
        _log.info(
            "%s request to the API, attempt %d: %s",
            self._method,
            self._attempts,
            "no response" if status is None else status,
            extra={"fields": fields | {"attempt": self._attempts, "seconds": round(seconds, 3)}},
        )


def trace_headers() -> dict[str, str]:
    """Return the trace header for the API: `traceparent`, if the trace is recorded.

    A client chooses its trace id, `tracestate` and `baggage`, so these are not sent to the API. It
    gets a new trace id instead.
    """
    span, current = trace.get_current_span(), current_request()
    context = span.get_span_context()
    if not span.is_recording():
        return {}
    trace_id = trace.format_trace_id(context.trace_id)
    if current and current.is_foreign:
        trace_id = trace.format_trace_id(current.trace_id)
        span.set_attribute("calls_mcp.upstream.trace_id", trace_id)
    span_id = trace.format_span_id(context.span_id)
    return {"traceparent": f"00-{trace_id}-{span_id}-{context.trace_flags:02x}"}


def observe_circuit(breaker: _CircuitBreaker) -> None:
    """Include a circuit breaker in the metrics. Its state may be read in any thread."""
    _breakers.add(breaker)


def forget_circuit(breaker: _CircuitBreaker) -> None:
    """Remove a circuit breaker from the metrics."""
    _breakers.discard(breaker)


def _breakers_by_state(_options: CallbackOptions) -> Iterable[Observation]:
    states = Counter(breaker.state for breaker in tuple(_breakers))
    return [Observation(states[state], {"state": state}) for state in _STATES] if states else []


_meter.create_observable_gauge(
    "calls_mcp.upstream.breakers",
    callbacks=[_breakers_by_state],
    description="Circuit breakers, by state",
)


@contextmanager
def _span(
    name: str, attributes: Mapping[str, str | int], kind: SpanKind = SpanKind.INTERNAL
) -> Generator[Span]:
    """Open a span that has only the kind of a failure, because messages may repeat arguments."""
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
