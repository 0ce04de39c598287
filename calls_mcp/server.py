"""The MCP server: what it offers, and the door of every request."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import mcp_types as types
from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from opentelemetry import trace

from calls_mcp import __version__, correlation
from calls_mcp.authentication import allows, own, principal, scope_of
from calls_mcp.catalog import Operation, load_operations
from calls_mcp.confirmation import converse
from calls_mcp.outcome import Approval, Caller, Outcome
from calls_mcp.redaction import quoted
from calls_mcp.results import to_result
from calls_mcp.runtime import Runtime
from calls_mcp.schema import input_schema, output_schema

if TYPE_CHECKING:
    from calls_mcp.prompts import Prompt

NAME = "calls-mcp"

Context = ServerRequestContext[Any, Any]

_READING = "Telephone calls over Twilio: list_calls finds them, fetch_call follows one"
_CHANGING = (
    ", create_call rings somebody, update_call changes or ends a live call, delete_call erases a "
    "record. Changes are confirmed by the user first. After outcome_unknown, look before you "
    "repeat: a repeated call may ring a person twice."
)
_NUMBERS = " Numbers are E.164 (+15005550006)."
_DAY = 86_400
_STATIC = CacheHint(ttl_ms=_DAY * 1000, scope="public")
_BY_SCOPES = CacheHint(ttl_ms=0, scope="private")


def build_server(runtime: Runtime) -> Server[Any]:
    """A server on `runtime`, for any number of connections of either protocol era.

    Raises:
        CatalogError: A file under `config/` is wrong.
    """
    handlers = _Handlers(runtime)
    lists = _STATIC if runtime.settings.calls_mcp_auth == "none" else _BY_SCOPES
    server: Server[Any] = Server(
        NAME,
        version=__version__,
        title="Calls",
        description="Place, find, follow, change and delete telephone calls, safely.",
        instructions=handlers.instructions,
        cache_hints={"tools/list": lists, "prompts/list": lists},
        get_tool_input_schema=handlers.input_schema,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_prompts=handlers.list_prompts,
        on_get_prompt=handlers.get_prompt,
    )
    # The sealed state outlives a confirmation, so that a late answer is told why it came too late.
    security = RequestStateSecurity(keys=runtime.keys, ttl=_DAY, bind_principal=principal_of)
    server.middleware.append(_identified)
    server.middleware.append(RequestStateBoundary(security, default_audience=NAME))
    return server


def principal_of(ctx: Context) -> str:
    """Who is asking: whom their token stands for; without one, what the client calls itself."""
    if (authenticated := principal()) is not None:
        return authenticated
    client = ctx.session.client_params
    name = client.client_info.name if client else "anonymous"
    return name.encode(errors="replace").decode()  # it may be no text that could be written down


async def _identified(ctx: Context, call_next: CallNext) -> HandlerResult:
    with correlation.request(ctx.meta, principal_of(ctx)):
        try:
            return await call_next(ctx)
        except MCPError as error:
            if "requestState" not in error.error.message:
                raise
            hint = f"{error.error.message}. Nothing was done: call again without requestState."
            raise MCPError(error.error.code, hint) from error


def _trace_id() -> str:
    """The trace that the request belongs to, by its `traceparent` or the host program's tracing."""
    span = trace.get_current_span().get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid else ""


class _Handlers:
    """One method for each request; the lists are made once and never change."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._is_open = runtime.settings.calls_mcp_auth == "none"
        read_only = runtime.settings.calls_mcp_read_only
        operations = load_operations()
        self._hidden = {o.name for o in operations.values() if read_only and not o.read_only}
        self._operations = {k: o for k, o in operations.items() if k not in self._hidden}
        self._prompts: Mapping[str, Prompt] = {}
        changing = ". Nothing can be changed: this server is read-only." if read_only else _CHANGING
        self.instructions = f"{_READING}{changing}{_NUMBERS}"
        self._tools = {name: _tool(operation) for name, operation in self._operations.items()}

    async def list_tools(self, ctx: Context, _params: object) -> types.ListToolsResult:
        self._admit(ctx)
        beyond = self._beyond()
        tools = [tool for name, tool in self._tools.items() if name not in beyond]
        return types.ListToolsResult(tools=tools)

    async def call_tool(
        self, ctx: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        self._admit(ctx)
        operation = self._operation(params.name)
        serving = correlation.served()
        name, trace_id, request_id = principal_of(ctx), _trace_id(), serving.id if serving else ""

        async def report(done: int, total: int) -> None:
            await ctx.session.report_progress(done, total, f"{done} calls read")

        async def invoke(approval: Approval | None, can_ask: bool) -> Outcome:  # noqa: FBT001
            arguments = params.arguments or {}
            caller = Caller(name, can_ask, trace_id, request_id)
            async with self._runtime.invoker(name, own()) as invoker:
                return await invoker.invoke(operation, arguments, caller, approval, report)

        patience = self._runtime.settings.calls_mcp_confirm_ttl
        outcome = await converse(ctx, params, invoke, patience)
        if isinstance(outcome, types.InputRequiredResult):
            return outcome
        return to_result(operation, outcome)

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        """A tool's schema, which the SDK would else make the whole list for with each request."""
        return self._tools[name].input_schema if name in self._tools else None

    async def list_prompts(self, _ctx: Context, _params: object) -> types.ListPromptsResult:
        prompts = [
            types.Prompt(
                name=prompt.name,
                title=prompt.title,
                description=prompt.description,
                arguments=[
                    types.PromptArgument(
                        name=a.name, description=a.description, required=a.required
                    )
                    for a in prompt.arguments
                ],
            )
            for prompt in self._usable_prompts().values()
        ]
        return types.ListPromptsResult(prompts=prompts)

    async def get_prompt(
        self, _ctx: Context, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult:
        prompts = self._usable_prompts()
        prompt = prompts.get(params.name)
        if prompt is None:
            unknown = quoted(params.name, 64)
            raise _invalid(f"Unknown prompt {unknown}. There are: {_names(prompts)}")
        given = params.arguments or {}
        if problems := [*prompt.problems(given)]:
            raise _invalid("; ".join(problems))
        text = types.TextContent(text=prompt.render(given))
        message = types.PromptMessage(role="user", content=text)
        return types.GetPromptResult(description=prompt.description, messages=[message])

    def _admit(self, ctx: Context) -> None:
        """Refuse what came over HTTP around the gate, should that ever be left out."""
        if not self._is_open and ctx.request is not None and principal() is None:
            raise MCPError(types.INVALID_REQUEST, "Nobody is authenticated")

    def _usable_prompts(self) -> "Mapping[str, Prompt]":
        from calls_mcp.prompts import load_prompts  # noqa: PLC0415  # YAML, which most don't need

        self._prompts = self._prompts or load_prompts()
        beyond = self._beyond() | self._hidden
        return {k: p for k, p in self._prompts.items() if not any(map(p.names, beyond))}

    def _beyond(self) -> set[str]:
        """The tools that are beyond the caller's scopes."""
        return {name for name, operation in self._operations.items() if not allows(operation)}

    def _operation(self, name: str) -> Operation:
        operation = self._operations.get(name)
        if operation is not None and not allows(operation):
            raise _invalid(f"insufficient_scope: {name} needs {scope_of(operation)}")
        if operation is not None:
            return operation
        if name in self._hidden:
            raise _invalid(f"{name} is switched off: this server is read-only")
        usable = {k: o for k, o in self._operations.items() if allows(o)}
        raise _invalid(f"Unknown tool {quoted(name, 64)}. There are: {_names(usable)}")


def _tool(operation: Operation) -> types.Tool:
    return types.Tool(
        name=operation.name,
        title=operation.title,
        description=operation.description,
        input_schema={**input_schema(operation)},
        output_schema={**output_schema(operation)},
        annotations=types.ToolAnnotations(
            read_only_hint=operation.read_only,
            destructive_hint=operation.effect in ("change", "delete"),
            idempotent_hint=operation.effect in ("read", "delete"),
            open_world_hint=True,
        ),
    )


def _invalid(message: str) -> MCPError:
    return MCPError(types.INVALID_PARAMS, message)


def _names(known: Mapping[str, object]) -> str:
    return ", ".join(known)
