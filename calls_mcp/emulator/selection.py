"""Which calls a list shows, as one query whose cost grows with the page and not with the table.

The list is in the order of arrival, `seq`, whatever it is filtered by, so that a place in it
stays where it is. A span of time therefore becomes a span of `seq`: a call that was dialled or
over within certain bounds can't have arrived after the upper one, nor longer before the lower
one than any call ever waited or lived. Both ends are looked up on an index.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from calls_mcp.emulator.tables import COLUMNS

Field = Literal["to", "from_", "parent_call_sid", "status", "started", "ended"]

LONGEST = {"started": "ring_at - created", "ended": "end_at - created"}


@dataclass(frozen=True)
class Criterion:
    """A condition that the listed calls meet: `started >= 1893499200.0`."""

    field: Field
    operator: Literal["=", "<", "<=", ">="]
    value: str | float


@dataclass(frozen=True)
class Anchor:
    """A place in the list, beside the call with this sequence number."""

    side: Literal["older", "newer"]
    seq: int


@dataclass(frozen=True)
class Condition:
    """A piece of SQL with one value to bind."""

    sql: str
    value: str | float


def selection(
    criteria: Sequence[Criterion], anchor: Anchor | None
) -> tuple[str, tuple[str | float, ...]]:
    """A query for the calls that meet all criteria, nearest to the anchor first.

    The values to bind come with it; one more, the limit, goes after them. Rows are the sequence
    number and the columns of a call.
    """
    conditions = [each for criterion in criteria for each in _conditions(criterion)]
    backwards = anchor is not None and anchor.side == "newer"
    if anchor is not None:
        conditions.append(Condition(f"seq {'>' if backwards else '<'} ?", anchor.seq))
    where = " AND ".join(condition.sql for condition in conditions) or "true"
    order = "ASC" if backwards else "DESC"
    query = f"SELECT seq, {COLUMNS} FROM calls WHERE {where} ORDER BY seq {order} LIMIT ?"  # noqa: S608 - names and operators are literals of ours, values are bound
    return query, tuple(condition.value for condition in conditions)


def _conditions(criterion: Criterion) -> Iterator[Condition]:
    yield Condition(f'"{criterion.field}" {criterion.operator} ?', criterion.value)
    if criterion.field not in LONGEST:
        return
    if criterion.operator == ">=":
        yield Condition(_arrived_since(LONGEST[criterion.field]), criterion.value)
    else:
        yield Condition(_ARRIVED_UNTIL, criterion.value)


def _arrived_since(longest: str) -> str:
    return f"""seq >= (SELECT seq FROM calls
        WHERE arrived >= ? - (SELECT max({longest}) FROM calls)
        ORDER BY arrived, seq LIMIT 1)"""  # noqa: S608 - our own column names


_ARRIVED_UNTIL = """seq <= (SELECT seq FROM calls
        WHERE arrived <= ? + (SELECT max(arrived - created) FROM calls)
        ORDER BY arrived DESC, seq DESC LIMIT 1)"""
