"""What is on offer to whoever sent a request, and what is read for them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import mcp_types as types
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from opentelemetry import trace

from calls_mcp.observability import correlation
from calls_mcp.observability.redaction import one_line, quoted
from calls_mcp.service.grants import Own, allows, own, principal, scope_of
from calls_mcp.service.runtime import Runtime
from calls_mcp.tools.catalog import Operation, load_operations
from calls_mcp.tools.outcome import Caller, Outcome

if TYPE_CHECKING:
    from calls_mcp.server.prompts import Prompt

Context = ServerRequestContext[Any, Any]
_OPERATORS = "console:"  # what the operator does in the console is recorded under such names


def principal_of(ctx: Context) -> str:
    """Who is asking: whom their token stands for; without one, what the client calls itself."""
    if (authenticated := principal()) is not None:
        return authenticated
    client = ctx.session.client_params
    name = client.client_info.name if client else "anonymous"
    name = f"client {name}" if name.startswith(_OPERATORS) else name
    return name.encode(errors="replace").decode()  # it may be no text that could be written down


def caller_of(ctx: Context, *, can_ask: bool = False) -> Caller:
    """Whoever sent the request in hand."""
    serving = correlation.current_request()
    request_id = serving.id if serving else ""
    return Caller(principal_of(ctx), can_ask, _trace_id(), request_id, _client_of(ctx))


def _client_of(ctx: Context) -> str:
    """What the client calls itself, and its version."""
    params = ctx.session.client_params
    told = f"{params.client_info.name} {params.client_info.version}" if params else ""
    return one_line(told, 80)


def connection_of(ctx: Context) -> Connection:
    """The connection that a request came by: the SDK has no other way to what is its own."""
    return ctx.session._connection  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def invalid(message: str, data: object = None) -> MCPError:
    """-32602: what was asked for does not exist, or not so."""
    return MCPError(types.INVALID_PARAMS, message, data)


def names(known: Mapping[str, object]) -> str:
    """The names of what there is, for a refusal."""
    return ", ".join(known)


class Offer:
    """The tools and prompts that there are, and which of them the request in hand may use."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.is_open = runtime.settings.auth.mode == "none"
        self.is_read_only = runtime.settings.guard.read_only
        operations = load_operations()
        hidden = {o.name for o in operations.values() if self.is_read_only and not o.read_only}
        self._hidden = hidden
        self.operations = {k: o for k, o in operations.items() if k not in hidden}
        self._prompts: Mapping[str, Prompt] = {}

    def admit(self, ctx: Context) -> None:
        """Refuse what came over HTTP around the gate, should that ever be left out."""
        if not self.is_open and ctx.request is not None and principal() is None:
            raise MCPError(types.INVALID_REQUEST, "Nobody is authenticated")

    def usable(self) -> dict[str, Operation]:
        """The tools that are within the caller's scopes."""
        return {name: o for name, o in self.operations.items() if allows(o)}

    def operation(self, name: str, data: object = None) -> Operation:
        """A tool that the caller may use.

        Raises:
            MCPError: There is none of this name, or not for them; with `data`.
        """
        operation = self.operations.get(name)
        if operation is not None and not allows(operation):
            raise invalid(f"insufficient_scope: {name} needs {scope_of(operation)}", data)
        if operation is not None:
            return operation
        if name in self._hidden:
            raise invalid(f"{name} is switched off: this server is read-only", data)
        unknown = quoted(name, 64)
        raise invalid(f"Unknown tool {unknown}. There are: {names(self.usable())}", data)

    def prompts(self) -> "Mapping[str, Prompt]":
        """The prompts that have the model use nothing but tools that the caller may use."""
        from calls_mcp.server.prompts import load_prompts  # noqa: PLC0415  # YAML, which most don't need

        self._prompts = self._prompts or load_prompts()
        beyond = self._hidden | (self.operations.keys() - self.usable().keys())
        return {k: p for k, p in self._prompts.items() if not any(map(p.names, beyond))}

    def prompt(self, name: str) -> "Prompt":
        """A prompt that the caller may use.

        Raises:
            MCPError: There is none of this name, or not for them.
        """
        prompts = self.prompts()
        if name not in prompts:
            raise invalid(f"Unknown prompt {quoted(name, 64)}. There are: {names(prompts)}")
        return prompts[name]

    async def read(
        self, name: str, arguments: Mapping[str, str | int], caller: Caller, whose: Own | None
    ) -> Outcome:
        """What a reading tool comes to, by the path of a tool call.

        `whose` is what the caller has of their own.
        """
        async with self.runtime.invoker(caller.principal, whose) as invoker:
            return await invoker.invoke(self.operations[name], arguments, caller)

    async def read_for(
        self, ctx: Context, name: str, arguments: Mapping[str, str | int]
    ) -> Outcome:
        """The same for whoever sent the request in hand, whose scopes have been looked at."""
        return await self.read(name, arguments, caller_of(ctx), own())


def _trace_id() -> str:
    """The trace that the request belongs to, by its `traceparent` or the host program's tracing."""
    span = trace.get_current_span().get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid else ""
