"""Who sent a request, the tools that they may use, and what is read for them."""

from collections.abc import Collection, Mapping
from typing import Any

import mcp_types as types
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from opentelemetry import trace

from calls_mcp.observability import correlation
from calls_mcp.observability.redaction import one_line, quoted
from calls_mcp.service.authorization import (
    Overrides,
    allows,
    current_overrides,
    current_principal,
    required_scope,
)
from calls_mcp.service.runtime import Runtime
from calls_mcp.tools.catalog import Operation, load_operations
from calls_mcp.tools.outcome import Caller, Outcome

Context = ServerRequestContext[Any, Any]
_OPERATORS = "console:"  # what the operator does in the console is recorded under such names


def principal_of(ctx: Context) -> str:
    """Return whom the caller's token stands for; without one, what the client calls itself."""
    if (authenticated := current_principal()) is not None:
        return authenticated
    client = ctx.session.client_params
    name = client.client_info.name if client else "anonymous"
    name = f"client {name}" if name.startswith(_OPERATORS) else name
    return name.encode(errors="replace").decode()  # it may be no text that could be written down


def caller_of(ctx: Context, *, can_ask: bool = False) -> Caller:
    """Return who sent the request in hand."""
    serving = correlation.current_request()
    request_id = serving.id if serving else ""
    return Caller(principal_of(ctx), can_ask, _trace_id(), request_id, _client_of(ctx))


def _client_of(ctx: Context) -> str:
    """Return what the client calls itself, and its version."""
    params = ctx.session.client_params
    told = f"{params.client_info.name} {params.client_info.version}" if params else ""
    return one_line(told, 80)


def connection_of(ctx: Context) -> Connection:
    """Return the connection of a request: the SDK has no other way to what belongs to it."""
    return ctx.session._connection  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def invalid(message: str, data: object = None) -> MCPError:
    """Return a -32602: what was asked for does not exist, or not so."""
    return MCPError(types.INVALID_PARAMS, message, data)


def names(known: Mapping[str, object]) -> str:
    """Return the names of what there is, for an error."""
    return ", ".join(known)


def require_first_page(params: types.PaginatedRequestParams | None) -> None:
    """Return unless a cursor is given: lists have one page, so none was ever issued.

    Raises:
        MCPError: One is given.
    """
    if params is not None and params.cursor is not None:
        raise invalid(f"Unknown cursor {quoted(params.cursor, 40)}. This list has one page")


class Permissions:
    """Which tools there are, and which of them the request in hand may use."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.is_open = runtime.settings.auth.mode == "none"
        self.is_read_only = runtime.settings.guard.read_only
        operations = load_operations()
        hidden = {o.name for o in operations.values() if self.is_read_only and not o.read_only}
        self._hidden = hidden
        self.operations = {k: o for k, o in operations.items() if k not in hidden}

    def require_authenticated(self, ctx: Context) -> None:
        """Refuse what came over HTTP without being authenticated, should that ever be left out."""
        if not self.is_open and ctx.request is not None and current_principal() is None:
            raise MCPError(types.INVALID_REQUEST, "Nobody is authenticated")

    def permitted(self) -> dict[str, Operation]:
        """Return the tools that are within the caller's scopes."""
        return {name: o for name, o in self.operations.items() if allows(o)}

    def denied(self) -> Collection[str]:
        """Return the names of the tools that the caller may not use."""
        return self._hidden | (self.operations.keys() - self.permitted().keys())

    def operation(self, name: str, data: object = None) -> Operation:
        """Return a tool that the caller may use.

        Raises:
            MCPError: There is none of this name, or not for them; with `data`.
        """
        operation = self.operations.get(name)
        if operation is not None and not allows(operation):
            raise invalid(f"insufficient_scope: {name} needs {required_scope(operation)}", data)
        if operation is not None:
            return operation
        if name in self._hidden:
            raise invalid(f"{name} is switched off: this server is read-only", data)
        unknown = quoted(name, 64)
        raise invalid(f"Unknown tool {unknown}. There are: {names(self.permitted())}", data)

    async def read(
        self,
        name: str,
        arguments: Mapping[str, str | int],
        caller: Caller,
        overrides: Overrides | None,
    ) -> Outcome:
        """Return the outcome of a reading tool, by the path of a tool call.

        `overrides` are the account and policy of the caller.
        """
        async with self.runtime.invoker(caller.principal, overrides) as invoker:
            return await invoker.invoke(self.operations[name], arguments, caller)

    async def read_for(
        self, ctx: Context, name: str, arguments: Mapping[str, str | int]
    ) -> Outcome:
        """Do the same for the caller of the request in hand, whose scopes have been checked."""
        return await self.read(name, arguments, caller_of(ctx), current_overrides())


def _trace_id() -> str:
    """Return the trace of the request, by its `traceparent` or the host program's tracing."""
    span = trace.get_current_span().get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid else ""
