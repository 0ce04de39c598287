"""A measurement of several rounds, and a reference that is measured in turn with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the table.

    `ours` and `reference` have a value for each round, in `unit`. `goal` is the upper bound of
    their ratio, or with `is_absolute` of the value itself. None means no goal.
    """

    name: str
    unit: str
    goal: float | None
    ours: Sequence[float]
    reference: Sequence[float] = (1.0,)
    is_absolute: bool = False

    @property
    def ratios(self) -> list[float]:
        """Return ours divided by the reference, for each round."""
        if len(self.reference) == 1:
            return [value / self.reference[0] for value in self.ours]
        return [a / b for a, b in zip(self.ours, self.reference, strict=True)]

    @property
    def has_reference(self) -> bool:
        """Return whether there is a reference."""
        return not self.is_absolute or len(self.reference) > 1

    @property
    def result(self) -> float:
        """Return the median that is compared with the goal."""
        return median(self.ours if self.is_absolute else self.ratios)

    @property
    def is_met(self) -> bool:
        """Return whether the goal is met."""
        return self.goal is None or self.result <= self.goal

    def as_json(self) -> dict[str, object]:
        """Return the measurement as JSON values."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": median(self.ours),
            "reference": median(self.reference) if self.has_reference else None,
            "result": self.result,
            "spread": [min(self.ratios), max(self.ratios)],
            "goal": self.goal,
            "met": self.is_met,
            "rounds": len(self.ours),
        }

    def as_row(self) -> str:
        """Return the row of the table."""
        values = self.as_json()
        spread = f"{min(self.ratios):.2f}-{max(self.ratios):.2f}"
        reference = f"{values['reference']:.4g}" if self.has_reference else ""
        return (
            f"{self.name:44} {values['ours']:>10.4g} {reference:>10} {self.unit:7} "
            f"{self.result:>9.4g} {spread if self.has_reference else '':>13} "
            f"{self._verdict}"
        )

    @property
    def _verdict(self) -> str:
        if self.goal is None:
            return ""
        return f"{self.goal:>8g}  {'met' if self.is_met else 'NOT MET'}"


def in_turn(*measures: Callable[[], float], rounds: int = ROUNDS) -> list[list[float]]:
    """Return each measure's values, taken in turn, so that a busy moment affects all of them."""
    taken: list[list[float]] = [[] for _ in measures]
    for measure in measures:  # warm up
        measure()
    for _ in range(rounds):
        for values, measure in zip(taken, measures, strict=True):
            values.append(measure())
    return taken
