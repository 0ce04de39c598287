"""Draw SVG charts of counts; the stylesheet sets the colors.

The library `leather` writes no inline styles, which the content security policy forbids.
"""

from collections.abc import Sequence
from math import ceil
from typing import Protocol, cast

import leather
from markupsafe import Markup, escape

_WIDTH, _ROW, _MARGIN = 600, 28, 70  # units
_MAX_LABEL = 32  # characters


class _Chart(Protocol):
    """The methods of the untyped library that are used here."""

    def add_bars(self, data: Sequence[tuple[float, str]]) -> None: ...

    def add_columns(self, data: Sequence[tuple[str, float]], *, name: str) -> None: ...

    def add_x_axis(self, *, ticks: Sequence[float]) -> None: ...

    def add_y_axis(self, *, ticks: Sequence[float]) -> None: ...

    def add_x_scale(self, domain_min: float, domain_max: float) -> None: ...

    def add_y_scale(self, domain_min: float, domain_max: float) -> None: ...

    def to_svg(self, *, width: int, height: int) -> str: ...


def bars(title: str, counts: Sequence[tuple[str, float]]) -> Markup:
    """Return a bar chart with the first label on top, empty if all counts are 0."""
    if not any(count for _, count in counts):
        return Markup()
    chart = cast("_Chart", leather.Chart())
    largest = max(count for _, count in counts)
    if ticks := _ticks(largest):
        chart.add_x_axis(ticks=ticks)
    chart.add_x_scale(0, ticks[-1] if ticks else largest)
    chart.add_bars([(count, label[:_MAX_LABEL]) for label, count in counts])
    return _svg(title, chart, _MARGIN + _ROW * len(counts))


def columns(
    title: str, labels: Sequence[str], parts: Sequence[tuple[str, Sequence[float]]]
) -> Markup:
    """Return a chart with a stacked column for each label, empty if all heights are 0.

    Args:
        title: The accessible name of the chart.
        labels: The labels of the columns, from left to right.
        parts: The name of each part and its height in each column, the top part first.
    """
    heights = [
        [*map(sum, zip(*(part for _, part in parts[at:]), strict=True))] for at in range(len(parts))
    ]
    if not any(heights[0]):
        return Markup()
    chart = cast("_Chart", leather.Chart())
    if ticks := _ticks(max(heights[0])):
        chart.add_y_axis(ticks=ticks)
    chart.add_y_scale(0, ticks[-1] if ticks else max(heights[0]))
    for (name, _), height in zip(parts, heights, strict=True):  # each before those above it
        chart.add_columns([*zip(labels, height, strict=True)], name=name)
    return _svg(title, chart, _WIDTH // 3)


def _ticks(largest: float) -> list[int] | None:
    """Return at most six whole numbers from 0 to `largest` or more, None for small fractions."""
    if largest < 1:
        return None
    steps = (digit * 10**power for power in range(16) for digit in (1, 2, 5))
    step = next(step for step in steps if 5 * step >= largest)
    last = ceil(largest / step) if step > 1 else 5
    return [step * number for number in range(last + 1)]


def _svg(title: str, chart: _Chart, height: int) -> Markup:
    """Return the chart as one image with an accessible name. The library escapes labels."""
    svg = chart.to_svg(width=_WIDTH, height=height)
    svg = svg.removeprefix(f'<svg width="{_WIDTH}" height="{height}"')
    start = Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}"').format(
        escape(title), _WIDTH, height
    )
    return start + Markup(svg)  # noqa: S704  # made by ElementTree
