"""Pages of a table: neighbouring rows, newest first."""

from collections.abc import Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

from calls_mcp.emulator.database import Database, Row

Item = TypeVar("Item")


class Filter(NamedTuple):
    """A condition on the listed rows, such as `started >= 1893499200.0`."""

    column: str
    operator: Literal["=", "<", "<=", ">="]
    value: str | float


class Anchor(NamedTuple):
    """A position in the list, next to the row with this sequence number."""

    side: Literal["older", "newer"]
    seq: int


class Page(NamedTuple, Generic[Item]):
    """Neighbouring items of the list, newest first.

    Attributes:
        items: The items.
        newer: The position before the first of them, None if the page is empty.
        older: The position after the last of them, None if no older item follows.
    """

    items: tuple[Item, ...] = ()
    newer: Anchor | None = None
    older: Anchor | None = None


def read_page(
    database: Database, select: str, filters: Sequence[Filter], size: int, anchor: Anchor | None
) -> Page[Row]:
    """Return the rows that match all filters: the newest ones, or those next to the anchor.

    Args:
        database: The database.
        select: The statement that selects a table's rows, with the column `seq` first. The rows
            are returned without it.
        filters: The conditions that all rows meet.
        size: The maximum number of rows.
        anchor: A position in the list, None for its start.
    """
    with database.transaction():
        found = _select(database, select, filters, size, anchor)
        if not found:
            return Page()
        newer, older = Anchor("newer", found[0][0]), Anchor("older", found[-1][0])
        at_the_end = len(found) < size and (anchor is None or anchor.side == "older")
        more = not at_the_end and bool(_select(database, select, filters, 1, older))
    return Page(tuple(row[1:] for row in found), newer, older if more else None)


def page_of(items: Sequence[Item], size: int, anchor: Anchor | None) -> Page[Item]:
    """Return a page of a list in memory, whose positions are the sequence numbers."""
    if anchor is not None and anchor.side == "newer":
        start, end = max(0, anchor.seq - size), anchor.seq
    else:
        start = 0 if anchor is None else anchor.seq + 1
        end = min(start + size, len(items))
    if start >= end:
        return Page()
    older = Anchor("older", end - 1) if end < len(items) else None
    return Page(tuple(items[start:end]), Anchor("newer", start), older)


def _select(
    database: Database, select: str, filters: Sequence[Filter], size: int, anchor: Anchor | None
) -> list[Row]:
    conditions = [f'"{each.column}" {each.operator} ?' for each in filters]
    values = [each.value for each in filters]
    backwards = anchor is not None and anchor.side == "newer"
    if anchor is not None:
        conditions.append("seq > ?" if backwards else "seq < ?")
        values.append(anchor.seq)
    where, order = " AND ".join(conditions) or "true", "ASC" if backwards else "DESC"
    found = database.rows(f"{select} WHERE {where} ORDER BY seq {order} LIMIT ?", (*values, size))
    return found[::-1] if backwards else found
