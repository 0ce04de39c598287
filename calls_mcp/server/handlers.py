"""The MCP server: its tools, and the handlers of all requests."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import mcp_types as types
from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError

from calls_mcp import __version__
from calls_mcp.observability.current_request import request_context
from calls_mcp.server import mcp_app as app
from calls_mcp.server.elicitation import ClientAbilities, Elicitation, ignore_invalid_answers
from calls_mcp.server.permissions import (
    Context,
    Permissions,
    caller_of,
    connection_of,
    principal_of,
    require_first_page,
)
from calls_mcp.server.results import to_result
from calls_mcp.service.background_tasks import BackgroundTasks, open_background_tasks
from calls_mcp.service.grants import current_grant, current_overrides
from calls_mcp.service.runtime import Runtime
from calls_mcp.service.wait_until import Waiting
from calls_mcp.tools.catalog import Operation
from calls_mcp.tools.outcome import Answer, Outcome
from calls_mcp.tools.schema import input_schema, output_schema

if TYPE_CHECKING:
    from calls_mcp.server.argument_completion import Completions
    from calls_mcp.server.prompts import Prompts
    from calls_mcp.server.resources import Resources
    from calls_mcp.server.subscriptions import Subscriptions

NAME = "calls-mcp"

_READING = (
    "Phone calls with Twilio. list_calls finds calls. fetch_call returns the status of one; with "
    "wait_until=ended, it waits and says how the call went."
)
_CHANGING = (
    " create_call places a call, update_call changes or ends a live call, and delete_call deletes "
    "a record. The user must confirm each change. After outcome_unknown, check with list_calls or "
    "fetch_call before you try again: a second call could ring the person twice."
)
_READ_ONLY = " This server is read-only: nothing can be changed."
_NUMBERS = " Phone numbers are in E.164 format, such as +15005550006."
_MORE = (
    " Resources: calls://docs/{tool} describes all parameters of a tool, calls://policy lists what "
    "is allowed, and calls://call/{sid} is a call."
)
_DAY = 86_400
_STATIC = CacheHint(ttl_ms=_DAY * 1000, scope="public")
_BY_SCOPES = CacheHint(ttl_ms=0, scope="private")
_DRAWING = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path fill="{}" d="M6 3l4 1 1 5-2 '
    '2q2 3 5 5l2-2 5 1 1 4-3 2Q5 20 4 6z"/></svg>'
)


def build_server(runtime: Runtime) -> Server[BackgroundTasks]:
    """Return a server on `runtime`, for any number of connections of either protocol version.

    Raises:
        CatalogError: A file under `config/` is wrong.
    """
    permissions = Permissions(runtime)
    tools = _Tools(permissions)
    other = cache(partial(_load, permissions))
    lists = _STATIC if permissions.is_open else _BY_SCOPES
    server = _Server(
        NAME,
        version=__version__,
        title="Calls",
        description="Place, find, follow, change and delete phone calls, safely.",
        instructions=_instructions(permissions),
        icons=[_icon("#145", "light"), _icon("#8df", "dark")],
        cache_hints={
            "server/discover": _STATIC,
            "tools/list": lists,
            "prompts/list": lists,
            "resources/list": lists,
            "resources/templates/list": lists,
        },
        lifespan=lambda _: open_background_tasks(),
        get_tool_input_schema=tools.input_schema,
        on_list_tools=tools.list,
        on_list_prompts=lambda ctx, params: other().prompts.list(ctx, params),
        on_get_prompt=lambda ctx, params: other().prompts.get(ctx, params),
        on_list_resources=lambda ctx, params: other().resources.list(ctx, params),
        on_list_resource_templates=lambda ctx, params: other().resources.list_templates(
            ctx, params
        ),
        on_read_resource=lambda ctx, params: other().resources.read(ctx, params),
        on_subscribe_resource=lambda ctx, params: other().subscriptions.subscribe(ctx, params),
        on_unsubscribe_resource=lambda ctx, params: other().subscriptions.unsubscribe(ctx, params),
        on_subscriptions_listen=lambda ctx, params: other().subscriptions.listen(ctx, params),
        on_completion=lambda ctx, params: other().completions.complete(ctx, params),
    )
    server.add_request_handler("tools/call", types.CallToolRequestParams, tools.call)
    server.extensions[app.EXTENSION] = {}
    # The sealed state outlives a confirmation, so that a late answer gets the reason.
    security = RequestStateSecurity(keys=runtime.keys, ttl=_DAY, bind_principal=principal_of)
    server.middleware.append(partial(_correlated, permissions))
    server.middleware.append(_corrected)
    server.middleware.append(ignore_invalid_answers)
    server.middleware.append(RequestStateBoundary(security, default_audience=NAME))
    return server


async def _correlated(permissions: Permissions, ctx: Context, call_next: CallNext) -> HandlerResult:
    permissions.require_authenticated(ctx)
    with request_context(ctx.meta, principal_of(ctx)):
        try:
            return await call_next(ctx)
        except MCPError as error:
            if "requestState" not in error.error.message:
                raise
            hint = f"{error.error.message}. Nothing was done. Try again without requestState."
            raise MCPError(error.error.code, hint) from error


async def _corrected(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Correct what the SDK promises and sends.

    An older client without a session gets no resource notifications. The icons are only sent with
    the server's description; the SDK would send them with each result.
    """
    result = await call_next(ctx)
    told: dict[str, Any] = result if isinstance(result, dict) else {}
    if ctx.method == "initialize" and not connection_of(ctx).has_standalone_channel:
        told["capabilities"]["resources"]["subscribe"] = False
    if ctx.method != "server/discover":
        told.get("_meta", {}).get(types.SERVER_INFO_META_KEY, {}).pop("icons", None)
    return result


class _Server(Server[BackgroundTasks]):
    """A server that announces no list changes, because its lists never change."""

    def get_capabilities(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
        *,
        protocol_version: str | None = None,
    ) -> types.ServerCapabilities:
        """Return the capabilities for a protocol version."""
        promised = super().get_capabilities(
            notification_options,
            experimental_capabilities,
            extensions,
            protocol_version=protocol_version,
        )
        for listed in (promised.tools, promised.prompts, promised.resources):
            if listed is not None:
                listed.list_changed = False
        return promised


class _Tools:
    """Serves the tools, whose list is made once and never changes."""

    def __init__(self, permissions: Permissions) -> None:
        self._permissions = permissions
        self._clients = ClientAbilities(permissions.runtime.clock)
        self._is_warm = False
        self._tools = {name: _tool(o) for name, o in permissions.operations.items()}

    async def list(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        require_first_page(params)
        self._warm_up(ctx)
        tools = [self._tools[name] for name in self._permissions.permitted()]
        if not app.is_shown_by(ctx):
            return types.ListToolsResult(tools=tools)
        # A shared cache would show the page to clients that do not support it.
        return types.ListToolsResult(tools=app.with_page(tools), cache_scope="private")

    async def call(self, ctx: Context, params: types.CallToolRequestParams) -> HandlerResult:
        operation, runtime = self._permissions.operation(params.name), self._permissions.runtime

        async def report(done: float, total: float, what: str) -> None:
            await ctx.session.report_progress(done, total, what)

        async def invoke(answer: Answer | None, can_ask: bool) -> Outcome:  # noqa: FBT001
            caller, overrides = caller_of(ctx, can_ask=can_ask), current_overrides()
            waiting = Waiting(
                watches=runtime.watches(ctx.lifespan_context),
                access=runtime.access_for(overrides),
                operation=operation,
                principal=caller.principal,
                grant=current_grant(),
                clock=runtime.clock,
                report=report,
            )
            async with runtime.invoker(caller.principal, overrides) as invoker:
                arguments = params.arguments or {}
                outcome = await invoker.invoke(
                    operation, arguments, caller, answer, report, waiting
                )
            grant = current_grant()
            await runtime.run_when_approved(outcome, operation, arguments, caller, grant)
            return outcome

        settings = runtime.settings
        timeout, console = settings.guard.confirm_ttl, settings.console
        elicitation = Elicitation(ctx, invoke, self._clients, timeout, console)
        outcome = await elicitation.run(params)
        if isinstance(outcome, types.InputRequiredResult):
            return outcome
        return _on_the_wire(to_result(operation, outcome))

    def _warm_up(self, ctx: Context) -> None:
        """Load what a tool call needs in the background, because one is likely to follow."""
        if not self._is_warm:
            self._is_warm = True
            ctx.lifespan_context.start(self._permissions.runtime.warm_up)

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        """Return a tool's schema, so that the SDK does not list the tools for each request."""
        return self._tools[name].input_schema if name in self._tools else None


@dataclass(frozen=True, slots=True)
class _Other:
    """The handlers of all requests that are not about tools."""

    prompts: "Prompts"
    resources: "Resources"
    subscriptions: "Subscriptions"
    completions: "Completions"


def _load(permissions: Permissions) -> _Other:
    """Import what clients that only use tools do not need, at the first such request."""
    from calls_mcp.server import argument_completion, prompts, resources, subscriptions  # noqa: PLC0415

    served = prompts.Prompts(permissions)
    read = resources.Resources(permissions)
    watched = subscriptions.Subscriptions(permissions, read)
    return _Other(served, read, watched, argument_completion.Completions(permissions, served))


def _instructions(permissions: Permissions) -> str:
    changing = _READ_ONLY if permissions.is_read_only else _CHANGING
    return f"{_READING}{changing}{_NUMBERS}{_MORE}"


def _icon(color: str, theme: Literal["light", "dark"]) -> types.Icon:
    drawing = b64encode(_DRAWING.format(color).encode()).decode()
    source = f"data:image/svg+xml;base64,{drawing}"
    return types.Icon(src=source, mime_type="image/svg+xml", sizes=["any"], theme=theme)


def _on_the_wire(result: types.CallToolResult) -> dict[str, Any]:
    """Return the result as the SDK would send it, but without copying each call of a list."""
    told = result.model_dump(by_alias=True, exclude_none=True, exclude={"structured_content"})
    return {**told, "structuredContent": result.structured_content}


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
