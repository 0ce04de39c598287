"""Record the spans and metrics of a server in this process.

OpenTelemetry's providers can be set only once in a process, so this one can be switched off for
other tests.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracer, SpanKind, Tracer

from calls_mcp.observability.telemetry_export import RedactingExporter
from calls_mcp.server.prompts import load_prompts
from calls_mcp.tools.catalog import load_operations

Tree = tuple[str, list["Tree"]]
"""A span's name, and the spans in it, in the order in which they began."""


class _Switched(Tracer):
    """A tracer that can be switched off."""

    def __init__(self, switch: "_Switch", tracer: Tracer) -> None:
        self._switch = switch
        self._tracers = {True: tracer, False: NoOpTracer()}

    def start_span(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # handed on as it is
        return self._tracers[self._switch.is_on].start_span(*args, **kwargs)

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # likewise
        return self._tracers[self._switch.is_on].start_as_current_span(*args, **kwargs)


class _Switch(trace.TracerProvider):
    """A provider whose tracers can be switched on and off."""

    def __init__(self, provider: TracerProvider) -> None:
        self.is_on = False
        self._provider = provider

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:  # noqa: ANN401  # handed on as it is
        return _Switched(self, self._provider.get_tracer(*args, **kwargs))


@dataclass(frozen=True)
class Recording:
    """The spans and metrics since the recording began."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(
        default_factory=lambda: InMemoryMetricReader(
            dict.fromkeys((Counter, Histogram), AggregationTemporality.DELTA)
        )
    )

    @property
    def spans(self) -> list[ReadableSpan]:
        """Return the ended spans, in the order in which they began."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the spans with this name."""
        return [span for span in self.spans if span.name == name]

    def invocations(self) -> list[Tree]:
        """Return the spans of tool calls, each with the spans in it."""
        served = [span for span in self.spans if span.kind is SpanKind.SERVER]
        return [self._tree(span) for span in served if span.name.startswith("tools/call ")]

    def measured(self, metric: str) -> dict[tuple[str, ...], float]:
        """Return the counts by the values of the labels, in the order of their names.

        For a histogram, this is the number of measurements. All counts start again from zero.
        """
        return self.readings().get(metric, {})

    def readings(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Return every metric as `measured` does."""
        return {
            name: {labels(point.attributes): _amount(point) for point in points}
            for name, points in self._points()
        }

    def _points(self) -> Iterator[tuple[str, list[NumberDataPoint | HistogramDataPoint]]]:
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = [
                        point
                        for point in metric.data.data_points
                        if isinstance(point, NumberDataPoint | HistogramDataPoint)
                    ]
                    yield metric.name, points

    def _tree(self, span: ReadableSpan) -> Tree:
        inner = [s for s in self.spans if s.parent and s.parent.span_id == _id(span)]
        return span.name, [self._tree(s) for s in inner]


def labels(attributes: Mapping[str, object] | None) -> tuple[str, ...]:
    return tuple(str(value) for _, value in sorted((attributes or {}).items()))


def told(span: ReadableSpan) -> dict[str, object]:
    """Return the attributes of a span."""
    return dict(span.attributes or {})


@contextmanager
def recording() -> Generator[Recording]:
    """A new recording."""
    switch, recorded = _built()
    recorded.exporter.clear()
    recorded.reader.get_metrics_data()
    switch.is_on = True
    try:
        yield recorded
    finally:
        switch.is_on = False


@cache
def _built() -> tuple[_Switch, Recording]:
    recorded = Recording()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(
        SimpleSpanProcessor(
            RedactingExporter(recorded.exporter, [*load_operations(), *load_prompts()])
        )
    )
    switch = _Switch(provider)
    trace.set_tracer_provider(switch)
    metrics.set_meter_provider(MeterProvider([recorded.reader], shutdown_on_exit=False))
    return switch, recorded


def _id(span: ReadableSpan) -> int:
    return span.context.span_id if span.context else 0


def _amount(point: NumberDataPoint | HistogramDataPoint) -> float:
    return point.value if isinstance(point, NumberDataPoint) else point.count
