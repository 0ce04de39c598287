"""The MCP server: its tools, and what becomes of every request."""

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
from calls_mcp.observability import correlation
from calls_mcp.server import mcp_app as app
from calls_mcp.server.elicitation import Elicitation
from calls_mcp.server.permissions import (
    Context,
    Permissions,
    caller_of,
    connection_of,
    principal_of,
    require_first_page,
)
from calls_mcp.server.results import to_result
from calls_mcp.service.authorization import current_overrides
from calls_mcp.service.background_tasks import BackgroundTasks, open_background_tasks
from calls_mcp.service.runtime import Runtime
from calls_mcp.tools.catalog import Operation
from calls_mcp.tools.outcome import Approval, Outcome
from calls_mcp.tools.schema import input_schema, output_schema

if TYPE_CHECKING:
    from calls_mcp.server.completion import Completions
    from calls_mcp.server.prompts import Prompts
    from calls_mcp.server.resources import Resources
    from calls_mcp.server.subscriptions import Subscriptions

NAME = "calls-mcp"

_READING = "Telephone calls over Twilio: list_calls finds them, fetch_call follows one"
_CHANGING = (
    ", create_call rings somebody, update_call changes or ends a live call, delete_call erases a "
    "record. Changes are confirmed by the user first. After outcome_unknown, look before you "
    "repeat: a repeated call may ring a person twice."
)
_NUMBERS = " Numbers are E.164 (+15005550006)."
_MORE = (
    " Resources: calls://docs/{tool} has a tool's parameters in full, calls://policy what is "
    "allowed, calls://call/{sid} a call."
)
_DAY = 86_400
_STATIC = CacheHint(ttl_ms=_DAY * 1000, scope="public")
_BY_SCOPES = CacheHint(ttl_ms=0, scope="private")
_DRAWING = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path fill="{}" d="M6 3l4 1 1 5-2 '
    '2q2 3 5 5l2-2 5 1 1 4-3 2Q5 20 4 6z"/></svg>'
)


def build_server(runtime: Runtime) -> Server[BackgroundTasks]:
    """Return a server on `runtime`, for any number of connections of either protocol era.

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
        description="Place, find, follow, change and delete telephone calls, safely.",
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
    # The sealed state outlives a confirmation, so that a late answer is told why it came too late.
    security = RequestStateSecurity(keys=runtime.keys, ttl=_DAY, bind_principal=principal_of)
    server.middleware.append(partial(_correlated, permissions))
    server.middleware.append(_corrected)
    server.middleware.append(RequestStateBoundary(security, default_audience=NAME))
    return server


async def _correlated(permissions: Permissions, ctx: Context, call_next: CallNext) -> HandlerResult:
    permissions.require_authenticated(ctx)
    with correlation.request_context(ctx.meta, principal_of(ctx)):
        try:
            return await call_next(ctx)
        except MCPError as error:
            if "requestState" not in error.error.message:
                raise
            hint = f"{error.error.message}. Nothing was done: call again without requestState."
            raise MCPError(error.error.code, hint) from error


async def _corrected(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Promise no notifications of resources to an older client that has no session for them.

    The icon is sent with what the server is asked about itself; the SDK would send it each time.
    """
    result = await call_next(ctx)
    told: dict[str, Any] = result if isinstance(result, dict) else {}
    if ctx.method == "initialize" and not connection_of(ctx).has_standalone_channel:
        told["capabilities"]["resources"]["subscribe"] = False
    if ctx.method != "server/discover":
        told.get("_meta", {}).get(types.SERVER_INFO_META_KEY, {}).pop("icons", None)
    return result


class _Server(Server[BackgroundTasks]):
    """Promises no more than it does: what it lists never changes."""

    def get_capabilities(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
        *,
        protocol_version: str | None = None,
    ) -> types.ServerCapabilities:
        """Return what clients of a protocol version are promised."""
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
    """Serves the tools; their list is made once and never changes."""

    def __init__(self, permissions: Permissions) -> None:
        self._permissions = permissions
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
        # Nobody who shares a cache with this client is to be told of the page.
        return types.ListToolsResult(tools=app.with_page(tools), cache_scope="private")

    async def call(self, ctx: Context, params: types.CallToolRequestParams) -> HandlerResult:
        operation, runtime = self._permissions.operation(params.name), self._permissions.runtime

        async def report(done: float, total: float, what: str) -> None:
            await ctx.session.report_progress(done, total, what)

        async def invoke(approval: Approval | None, can_ask: bool) -> Outcome:  # noqa: FBT001
            caller = caller_of(ctx, can_ask=can_ask)
            async with runtime.invoker(caller.principal, current_overrides()) as invoker:
                arguments = params.arguments or {}
                return await invoker.invoke(operation, arguments, caller, approval, report)

        settings = runtime.settings
        timeout, console = settings.guard.confirm_ttl, settings.console.url
        outcome = await Elicitation(ctx, invoke, timeout, console).run(params)
        if isinstance(outcome, types.InputRequiredResult):
            return outcome
        return _on_the_wire(to_result(operation, outcome))

    def _warm_up(self, ctx: Context) -> None:
        """Once the tools are known, a call is likely to follow: load behind the model's back."""
        if not self._is_warm:
            self._is_warm = True
            ctx.lifespan_context.start(self._permissions.runtime.warm_up)

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        """Return a tool's schema, which the SDK would else take from a list for each request."""
        return self._tools[name].input_schema if name in self._tools else None


@dataclass(frozen=True, slots=True)
class _Other:
    """What serves all requests but those for tools."""

    prompts: "Prompts"
    resources: "Resources"
    subscriptions: "Subscriptions"
    completions: "Completions"


def _load(permissions: Permissions) -> _Other:
    """Import what a client that only has tools does not need, when it is asked for."""
    from calls_mcp.server import completion, prompts, resources, subscriptions  # noqa: PLC0415

    served = prompts.Prompts(permissions)
    read = resources.Resources(permissions)
    watched = subscriptions.Subscriptions(permissions, read)
    return _Other(served, read, watched, completion.Completions(permissions, served))


def _instructions(permissions: Permissions) -> str:
    read_only = ". Nothing can be changed: this server is read-only."
    changing = read_only if permissions.is_read_only else _CHANGING
    return f"{_READING}{changing}{_NUMBERS}{_MORE}"


def _icon(colour: str, theme: Literal["light", "dark"]) -> types.Icon:
    drawing = b64encode(_DRAWING.format(colour).encode()).decode()
    source = f"data:image/svg+xml;base64,{drawing}"
    return types.Icon(src=source, mime_type="image/svg+xml", sizes=["any"], theme=theme)


def _on_the_wire(result: types.CallToolResult) -> dict[str, Any]:
    """Return the result as the SDK would send it, which would first copy each call of a list."""
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
