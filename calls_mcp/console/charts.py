"""Draw charts of counts: text in HTML and shapes in SVG; the stylesheet sets sizes and colors.

Only the shapes are scaled, so the text is legible at every width. There are no inline styles, which
the content security policy forbids.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import ceil

from markupsafe import Markup

from calls_mcp.observability.redaction import escape_invisible

_MAX_LABEL = 32  # characters
_COLUMN = 10  # units

_CHART = Markup('<div class="{}" role="img" aria-label="{}">{}</div>')
_BAR = Markup(
    '<span>{}</span><svg viewBox="0 0 100 1" preserveAspectRatio="none">'
    '<rect width="{:.1f}" height="1"/></svg><span class="number">{:,.{}f}</span>'
)
_COLUMNS = Markup(
    '<p class="legend">{}</p><p class="scale">{}</p>'
    '<svg viewBox="0 0 {} 100" preserveAspectRatio="none">{}{}</svg><p class="labels">{}</p>'
)
_PART = Markup('<span class="part-{}">{}</span>')
_TEXT = Markup("<span>{}</span>")
_LINE = Markup('<path d="M0 {:.1f}H{}"/>')
_RECT = Markup('<rect class="part-{}" x="{}" y="{:.1f}" width="8" height="{:.1f}"/>')


def bars(title: str, counts: Sequence[tuple[str, float]], digits: int = 0) -> Markup:
    """Return a bar chart with the first label on top, empty if all counts are 0.

    `digits` is the number of decimal places.
    """
    largest = max((count for _, count in counts), default=0)
    if not largest:
        return Markup()
    rows = (
        _BAR.format(escape_invisible(label[:_MAX_LABEL]), 100 * count / largest, count, digits)
        for label, count in counts
    )
    return _CHART.format("bars", title, Markup().join(rows))


def columns(
    title: str, labels: Sequence[str], parts: Sequence[tuple[str, Sequence[float]]]
) -> Markup:
    """Return a chart with a stacked column for each label, empty if all heights are 0.

    Args:
        title: The accessible name of the chart.
        labels: The labels of the columns, from left to right.
        parts: The name of each part and its height in each column, the top part first.
    """
    heights = [*zip(*(part for _, part in parts), strict=True)]
    highest = max(map(sum, heights), default=0)
    if not highest:
        return Markup()
    ticks, width = _ticks(highest), _COLUMN * len(labels)
    legend = (_PART.format(at, name) for at, (name, _) in enumerate(parts, 1))
    lines = (_LINE.format(100 - 100 * tick / ticks[-1], width) for tick in ticks)
    rects = (rect for at, column in enumerate(heights) for rect in _column(at, column, ticks[-1]))
    return _CHART.format(
        "columns",
        title,
        _COLUMNS.format(
            Markup().join(legend),
            Markup().join(_TEXT.format(tick) for tick in reversed(ticks)),
            width,
            Markup().join(lines),
            Markup().join(rects),
            Markup().join(map(_TEXT.format, labels)),
        ),
    )


def _column(at: int, heights: Sequence[float], top: float) -> Iterator[Markup]:
    """Yield the parts of one column, from the top part to the bottom one."""
    ends = [*accumulate(reversed(heights))][::-1]
    for part, (height, end) in enumerate(zip(heights, ends, strict=True), 1):
        if height:
            y = 100 - 100 * end / top
            yield _RECT.format(part, _COLUMN * at + 1, y, 100 * height / top)


def _ticks(largest: float) -> Sequence[int]:
    """Return at most six whole numbers from 0 to `largest` or more."""
    steps = (digit * 10**power for power in range(16) for digit in (1, 2, 5))
    step = next(step for step in steps if 5 * step >= largest)
    return [step * number for number in range(ceil(largest / step) + 1)]
