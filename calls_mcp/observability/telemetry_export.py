"""Export spans and metrics by OTLP, and metrics to Prometheus.

This is the only module that needs the OpenTelemetry SDK (the extra `otel`).
"""

import logging
import os
import re
import threading
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, Status
from prometheus_client import CollectorRegistry, start_http_server

from calls_mcp import __version__
from calls_mcp.errors import ConfigurationError

_SHUTDOWN_TIMEOUT = 2.0  # seconds to send the last spans and metrics
_PROTOCOLS = (
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
)

# The SDK's attributes that are exported unchanged. All of ours are.
_EXPORTED = frozenset(
    {
        "error.type",
        "gen_ai.operation.name",
        "http.request.method",
        "http.request.resend_count",
        "http.response.status_code",
        "rpc.response.status_code",
    }
)
# Clients choose these values, so only known ones are exported.
_FROM_CLIENT = frozenset({"gen_ai.prompt.name", "gen_ai.tool.name", "mcp.method.name"})
_METHODS = (
    *("initialize", "ping", "server/discover", "completion/complete", "elicitation/create"),
    *("tools/call", "tools/list", "prompts/get", "prompts/list", "logging/setLevel"),
    *("resources/list", "resources/templates/list", "resources/read", "subscriptions/listen"),
    *("resources/subscribe", "resources/unsubscribe"),
    *("notifications/cancelled", "notifications/initialized", "notifications/progress"),
)
_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MAX_WORDS = 4  # of a span's name

_log = logging.getLogger(__name__)


@contextmanager
def exporting(
    *, otlp: bool, metrics_address: str | None, names: Collection[str]
) -> Generator[None]:
    """Export spans and metrics by OTLP, as the `OTEL_*` variables say, or serve metrics, or both.

    Call this once in a process. Spans show the tools and prompts in `names`; other names that
    clients send are not exported.

    Raises:
        ConfigurationError: A setting can't be used.
    """
    readers: list[MetricReader] = []
    resource = _resource()
    with ExitStack() as closing:
        if metrics_address is not None:
            readers.append(_prometheus(metrics_address, closing))
        if otlp:
            _require_http()
            readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
            tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
            tracers.add_span_processor(
                BatchSpanProcessor(RedactingExporter(OTLPSpanExporter(), names))
            )
            trace.set_tracer_provider(tracers)
            closing.callback(_shut_down, tracers)
        meters = MeterProvider(readers, resource, shutdown_on_exit=False)
        metrics.set_meter_provider(meters)
        closing.callback(_shut_down, meters)
        yield


def _shut_down(provider: TracerProvider | MeterProvider) -> None:
    """Shut a provider down, without waiting long for a collector that does not answer."""
    thread = threading.Thread(target=provider.shutdown, daemon=True)
    thread.start()
    thread.join(_SHUTDOWN_TIMEOUT)


def _resource() -> Resource:
    """Return the resource from the `OTEL_*` variables, or by default this service."""
    ours = Resource({"service.name": "calls-mcp", "service.version": __version__})
    return Resource.create({**ours.merge(OTELResourceDetector().detect()).attributes})


def _require_http() -> None:
    for name in _PROTOCOLS:
        if os.environ.get(name, "http/protobuf") != "http/protobuf":
            raise ConfigurationError(
                f"{name} must be http/protobuf: gRPC and JSON are not supported."
            )


def _prometheus(address: str, closing: ExitStack) -> MetricReader:
    url = urlsplit(f"//{address}")
    host, registry = url.hostname or "", CollectorRegistry()
    try:
        server, thread = start_http_server(url.port or 0, host, registry)
    except OSError as error:
        problem = error.strerror or "the address can't be used"
        raise ConfigurationError(
            f"Cannot serve metrics at {address}: {problem}. Set CALLS_MCP_METRICS_ADDRESS to "
            "another address."
        ) from error
    closing.callback(thread.join)
    closing.callback(server.server_close)
    closing.callback(server.shutdown)
    named = f"[{host}]" if ":" in host else host
    _log.info("serving metrics at http://%s:%d/metrics", named, server.server_port)
    return PrometheusMetricReader(scope_info_enabled=False, registry=registry)


class RedactingExporter(SpanExporter):
    """Exports spans without text that a client chose.

    The MCP SDK names its spans after the tool that a client requests, and includes request ids,
    trace state and error messages.
    """

    def __init__(self, exporter: SpanExporter, names: Collection[str]) -> None:
        self._exporter = exporter
        self._known = {*_METHODS, *names, "MCP", "send"}

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export redacted spans."""
        return self._exporter.export([self._redacted(span) for span in spans])

    def shutdown(self) -> None:
        """Shut the exporter down."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the exporter."""
        return self._exporter.force_flush(timeout_millis)

    def _redacted(self, span: ReadableSpan) -> ReadableSpan:
        scope = span.instrumentation_scope
        is_ours = scope is not None and scope.name == "calls-mcp"
        return ReadableSpan(
            span.name if is_ours else self._name(span.name),
            _without_trace_state(span.context),
            _without_trace_state(span.parent),
            span.resource,
            self._attributes(span.attributes or {}),
            [*map(_type_only, span.events)],
            kind=span.kind,
            status=Status(span.status.status_code),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=scope,
        )

    def _name(self, name: str) -> str:
        return " ".join(map(self._word, name.split()[:_MAX_WORDS]))

    def _word(self, word: object) -> str:
        return word if isinstance(word, str) and word in self._known else "other"

    def _attributes(self, attributes: Mapping[str, object]) -> dict[str, str | int]:
        exported: dict[str, str | int] = {}
        for key, value in attributes.items():
            if key in _FROM_CLIENT:
                exported[key] = self._word(value)
            elif _is_safe(key, value) and isinstance(value, str | int):
                exported[key] = value
        return exported


def _is_safe(key: str, value: object) -> bool:
    if key == "mcp.protocol.version":
        return _VERSION.fullmatch(str(value)) is not None
    return key in _EXPORTED or key.startswith("calls_mcp.")


def _type_only(event: Event) -> Event:
    kept = {k: v for k, v in (event.attributes or {}).items() if k == "exception.type"}
    return Event(event.name, kept, event.timestamp)


def _without_trace_state(context: SpanContext | None) -> SpanContext | None:
    if context is None:
        return None
    return SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)
