"""The opaque `next_cursor`: a place in a list, together with the filters that made it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

from calls_mcp.arguments import Arguments
from calls_mcp.catalog import Json
from calls_mcp.errors import InvalidArguments
from calls_mcp.listing import Position, first_page
from calls_mcp.outcome import Fault
from calls_mcp.redaction import quoted
from calls_mcp.seal import Seal

# These may differ from one answer to the next without making it another list.
_FREE = frozenset({"limit", "page_size"})

_Packed = tuple[dict[str, Json], list[tuple[str, str]], str]


@dataclass(frozen=True, slots=True)
class Query:
    """What to list, from where on, and how many."""

    arguments: Arguments
    start: Position
    limit: int


class Cursors:
    """Issues and reads cursors. They are signed, so they can name no list but one of ours."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    def issue(self, query: Query, position: Position) -> str:
        """A cursor for going on with `query` at `position`."""
        values = {k: v for k, v in query.arguments.values.items() if k != "page_size"}
        return self._seal.pack([values, [[*pair] for pair in position.page], position.after])

    def resume(self, arguments: Arguments, budget: int) -> Query:
        """What `arguments` ask for: a new list, or to go on with the one of their cursor.

        Raises:
            InvalidArguments: The cursor is none of ours, or is of a list with other filters.
        """
        cursor = arguments.own.get("cursor")
        if cursor is None:
            limit = _limit(arguments)
            size = arguments.values.get("page_size")
            start = first_page(limit, size if isinstance(size, int) else None, budget)
            return Query(arguments, start, limit)
        packed = self._seal.unpack(cursor)
        if packed is None:
            raise InvalidArguments([_not_ours(cursor)])
        values, page, after = cast("_Packed", packed)
        if differences := [*_differences(arguments, values)]:
            raise InvalidArguments(differences)
        merged = replace(arguments, values={**values, **arguments.values})
        return Query(merged, Position(tuple((k, v) for k, v in page), after), _limit(merged))


def _limit(arguments: Arguments) -> int:
    default = arguments.operation.parameters["limit"].schema["default"]
    return cast("int", arguments.values.get("limit", default))


def _not_ours(cursor: str) -> Fault:
    return {
        "path": "/cursor",
        "expected": "next_cursor of an earlier answer of this server, unaltered",
        "received": quoted(cursor, 24),
    }


def _differences(arguments: Arguments, values: Mapping[str, Json]) -> Iterator[Fault]:
    for name, value in arguments.values.items():
        if name not in _FREE and values.get(name) != value:
            yield {
                "path": f"/{name}",
                "expected": "the filter that the cursor carries; with a cursor, leave it out",
                "received": quoted(str(value), 80),
            }
