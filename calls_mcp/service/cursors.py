"""The opaque `next_cursor`: a position in a list, with the filters of the list.

The filters are included because models tend to drop arguments between pages.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

from calls_mcp.errors import Fault, InvalidArguments
from calls_mcp.guard.signing import Signer
from calls_mcp.observability.redaction import quoted
from calls_mcp.service.listing import Bounds, Position
from calls_mcp.tools.catalog import Json
from calls_mcp.tools.validation import Arguments
from calls_mcp.twilio.requests import Pair

# These may change between pages of the same list.
_FREE = frozenset({"limit", "page_size"})

_Packed = tuple[str, dict[str, Json], list[tuple[str, str]], str]


@dataclass(frozen=True, slots=True)
class Cursors:
    """Issues and reads cursors. They are signed, so clients can't make their own.

    `account_sid` is the default account.
    """

    signer: Signer
    account_sid: str

    def issue(self, arguments: Arguments, position: Position, principal: str) -> str:
        """Return a cursor that continues the list of `arguments` at `position`."""
        values = {k: v for k, v in arguments.values.items() if k != "page_size"}
        page: list[Json] = [[*pair] for pair in position.page]
        return self.signer.pack([self.account_sid, values, page, position.after], principal)

    def resume(
        self, arguments: Arguments, principal: str, tokens: int
    ) -> tuple[Arguments, Bounds, Position]:
        """Return what to list: `arguments` with the filters of their cursor, if they have one.

        A result has at most `tokens`.

        Raises:
            InvalidArguments: The cursor was not issued to this principal, or the arguments have
                other filters.
        """
        cursor = arguments.own.get("cursor")
        if cursor is None:
            bounds = _bounds(arguments, tokens)
            return arguments, bounds, Position(_page_size(arguments, bounds))
        packed = self._unpacked(cursor, principal)
        if packed is None:
            raise InvalidArguments([_not_ours(cursor)])
        _, values, page, after = packed[:4]
        own_account: dict[str, Json] = {"account_sid": self.account_sid}
        if differences := [*_differences(arguments, own_account | values)]:
            raise InvalidArguments(differences)
        merged = replace(arguments, values={**values, **arguments.values})
        bounds = _bounds(merged, tokens)
        pairs = tuple((name, value) for name, value in page)
        if not after:  # a new size in the middle of a page would shift the pages
            rest = (pair for pair in pairs if pair[0] != "PageSize")
            pairs = (*_page_size(merged, bounds), *rest)
        return merged, bounds, Position(pairs, after)

    def faults(self, cursor: Json, principal: str) -> Iterator[Fault]:
        """Yield the fault of a cursor that was not issued to this principal."""
        if cursor and isinstance(cursor, str) and self._unpacked(cursor, principal) is None:
            yield _not_ours(cursor)

    def _unpacked(self, cursor: str, principal: str) -> _Packed | None:
        packed = cast("_Packed | None", self.signer.unpack(cursor, principal))
        return packed if packed and packed[0] == self.account_sid else None


def _bounds(arguments: Arguments, tokens: int) -> Bounds:
    default = arguments.operation.parameters["limit"].default
    return Bounds(cast("int", arguments.values.get("limit", default)), tokens)


def _page_size(arguments: Arguments, bounds: Bounds) -> tuple[Pair, ...]:
    """Return the PageSize of the first request: no more calls than fit in the result."""
    asked = cast("int", arguments.values.get("page_size", bounds.page_size))
    return (("PageSize", str(min(asked, bounds.page_size))),)


def _not_ours(cursor: str) -> Fault:
    return Fault(
        path="/cursor",
        expected="next_cursor exactly as this server returned it",
        received=quoted(cursor, 24),
    )


def _differences(arguments: Arguments, values: Mapping[str, Json]) -> Iterator[Fault]:
    for name, value in arguments.values.items():
        if name not in _FREE and values.get(name) != value:
            yield Fault(
                path=f"/{name}",
                expected="no filter, because the cursor includes the filters",
                received=quoted(str(value), 80),
            )
