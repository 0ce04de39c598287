"""Counts → an SVG chart, whose colours are the stylesheet's."""

from collections.abc import Sequence
from typing import Protocol, cast

import leather
from markupsafe import Markup, escape

_WIDTH, _ROW, _MARGIN = 600, 28, 70  # units
_LONGEST_LABEL = 32  # characters


class _Chart(Protocol):
    """What is used of the library, which has no types."""

    def add_bars(self, data: Sequence[tuple[float, str]]) -> None: ...

    def add_columns(self, data: Sequence[tuple[str, float]], *, name: str) -> None: ...

    def add_x_scale(self, domain_min: float, domain_max: float) -> None: ...

    def add_y_scale(self, domain_min: float, domain_max: float) -> None: ...

    def to_svg(self, *, width: int, height: int) -> str: ...


def bars(title: str, counts: Sequence[tuple[str, float]]) -> Markup:
    """A bar for each label, the first on top; nothing if there is nothing to see."""
    if not any(count for _, count in counts):
        return Markup()
    chart = cast("_Chart", leather.Chart())
    chart.add_x_scale(0, _rounded(max(count for _, count in counts)))
    chart.add_bars([(count, label[:_LONGEST_LABEL]) for label, count in counts])
    height = _MARGIN + _ROW * len(counts)
    return _labelled(title, chart.to_svg(width=_WIDTH, height=height), height)


def columns(
    title: str, labels: Sequence[str], parts: Sequence[tuple[str, Sequence[float]]]
) -> Markup:
    """A column for each label, from left to right; nothing if there is nothing to see.

    `parts` stand on each other, the first on top: a name, and how much of each column it is.
    """
    heights = [
        [*map(sum, zip(*(part for _, part in parts[at:]), strict=True))] for at in range(len(parts))
    ]
    if not any(heights[0]):
        return Markup()
    chart = cast("_Chart", leather.Chart())
    chart.add_y_scale(0, _rounded(max(heights[0])))
    for (name, _), height in zip(parts, heights, strict=True):  # each before those above it
        chart.add_columns([*zip(labels, height, strict=True)], name=name)
    height = _WIDTH // 3
    return _labelled(title, chart.to_svg(width=_WIDTH, height=height), height)


def _rounded(most: float) -> float:
    """An end for the axis that is no less."""
    return most if most < 1 else float(-(-most // 5) * 5)


def _labelled(title: str, svg: str, height: int) -> Markup:
    """The library's SVG, which escapes its labels, as one picture with a name."""
    begins = f'<svg width="{_WIDTH}" height="{height}"'
    named = Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}"').format(
        escape(title), _WIDTH, height
    )
    return named + Markup(svg.removeprefix(begins))  # noqa: S704  # made by ElementTree
