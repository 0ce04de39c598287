"""The principal of a request, the tools that they may use, and reads for them."""

from collections.abc import Collection, Mapping
from typing import Any

import mcp_types as types
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from opentelemetry import trace

from calls_mcp.observability.current_request import current_request
from calls_mcp.observability.redaction import one_line, quoted
from calls_mcp.service.grants import (
    Overrides,
    allows,
    current_overrides,
    current_principal,
    is_reserved,
    required_scope,
)
from calls_mcp.service.runtime import Runtime
from calls_mcp.tools.catalog import Operation, load_operations
from calls_mcp.tools.outcome import Caller, Outcome

Context = ServerRequestContext[Any, Any]
_LONGEST_NAME = 64  # characters


def principal_of(ctx: Context) -> str:
    """Return the principal of the caller's token; without one, the name of the client."""
    if (authenticated := current_principal()) is not None:
        return authenticated
    client = ctx.session.client_params
    name = one_line(client.client_info.name if client else "", _LONGEST_NAME) or "anonymous"
    return f"client {name}" if is_reserved(name) else name


def caller_of(ctx: Context, *, can_ask: bool = False) -> Caller:
    """Return the caller of this request."""
    serving = current_request()
    request_id = serving.id if serving else ""
    return Caller(principal_of(ctx), can_ask, _trace_id(), request_id, _client_of(ctx))


def _client_of(ctx: Context) -> str:
    """Return the client's name and version."""
    params = ctx.session.client_params
    told = f"{params.client_info.name} {params.client_info.version}" if params else ""
    return one_line(told, 80)


def connection_of(ctx: Context) -> Connection:
    """Return the connection of a request, which the SDK does not offer otherwise."""
    return ctx.session._connection  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def invalid_params(message: str, data: object = None) -> MCPError:
    """Return an error with the code -32602, for what does not exist or is invalid."""
    return MCPError(types.INVALID_PARAMS, message, data)


def require_first_page(params: types.PaginatedRequestParams | None) -> None:
    """Refuse a cursor, because lists have one page.

    Raises:
        MCPError: A cursor is given.
    """
    if params is not None and params.cursor is not None:
        raise invalid_params(
            f"Unknown cursor {quoted(params.cursor, 40)}. This list has one page; omit the cursor"
        )


class Permissions:
    """The tools of this server, and which of them a request may use."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.is_open = runtime.settings.auth.mode == "none"
        self.is_read_only = runtime.settings.guard.read_only
        operations = load_operations()
        hidden = {o.name for o in operations.values() if self.is_read_only and not o.read_only}
        self._hidden = hidden
        self.operations = {k: o for k, o in operations.items() if k not in hidden}

    def require_authenticated(self, ctx: Context) -> None:
        """Refuse an HTTP request without a principal, as a second line of defense."""
        if not self.is_open and ctx.request is not None and current_principal() is None:
            raise MCPError(types.INVALID_REQUEST, "The request is not authenticated")

    def permitted(self) -> dict[str, Operation]:
        """Return the tools that the caller's scopes allow."""
        return {name: o for name, o in self.operations.items() if allows(o)}

    def denied(self) -> Collection[str]:
        """Return the names of the tools that the caller may not use."""
        return self._hidden | (self.operations.keys() - self.permitted().keys())

    def operation(self, name: str, data: object = None) -> Operation:
        """Return a tool that the caller may use.

        Raises:
            MCPError: The tool does not exist, or the caller may not use it; with `data`.
        """
        operation = self.operations.get(name)
        if operation is not None and not allows(operation):
            raise invalid_params(
                f"insufficient_scope: {name} needs {required_scope(operation)}", data
            )
        if operation is not None:
            return operation
        if name in self._hidden:
            raise invalid_params(f"{name} is not available, because this server is read-only", data)
        available = ", ".join(self.permitted())
        raise invalid_params(f"Unknown tool {quoted(name, 64)}. Available: {available}", data)

    async def read(
        self,
        name: str,
        arguments: Mapping[str, str | int],
        caller: Caller,
        overrides: Overrides | None,
    ) -> Outcome:
        """Return the outcome of a tool that reads, as a tool call would.

        `overrides` are the account and policy of the caller.
        """
        async with self.runtime.invoker(caller.principal, overrides) as invoker:
            return await invoker.invoke(self.operations[name], arguments, caller)

    async def read_for(
        self, ctx: Context, name: str, arguments: Mapping[str, str | int]
    ) -> Outcome:
        """Read as `read` does, for the caller of this request, whose scopes have been checked."""
        return await self.read(name, arguments, caller_of(ctx), current_overrides())


def _trace_id() -> str:
    """Return the trace ID of the request, from its `traceparent` or the host program."""
    span = trace.get_current_span().get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid else ""
