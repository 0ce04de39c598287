"""The MCP server: what it offers, and the door of every request."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import mcp_types as types
from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError

from calls_mcp import __version__
from calls_mcp.observability import correlation
from calls_mcp.observability.redaction import quoted
from calls_mcp.server import mcp_app as app
from calls_mcp.server.access import Context, Offer, caller_of, connection_of, invalid, principal_of
from calls_mcp.server.elicitation import Conversation
from calls_mcp.server.icon import icons
from calls_mcp.server.results import to_result
from calls_mcp.service.background import Background, background
from calls_mcp.service.grants import own
from calls_mcp.service.runtime import Runtime
from calls_mcp.tools.catalog import Operation
from calls_mcp.tools.outcome import Approval, Outcome
from calls_mcp.tools.schema import input_schema, output_schema

if TYPE_CHECKING:
    from calls_mcp.server.completion import Completions
    from calls_mcp.server.prompts import Prompt
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


def build_server(runtime: Runtime) -> Server[Background]:
    """A server on `runtime`, for any number of connections of either protocol era.

    Raises:
        CatalogError: A file under `config/` is wrong.
    """
    offer = Offer(runtime)
    handlers = _Handlers(offer)
    lists = _STATIC if offer.is_open else _BY_SCOPES
    server = _Server(
        NAME,
        version=__version__,
        title="Calls",
        description="Place, find, follow, change and delete telephone calls, safely.",
        instructions=handlers.instructions,
        icons=icons(),
        cache_hints={
            "server/discover": _STATIC,
            "tools/list": lists,
            "prompts/list": lists,
            "resources/list": lists,
            "resources/templates/list": lists,
        },
        lifespan=lambda _: background(),
        get_tool_input_schema=handlers.input_schema,
        on_list_tools=handlers.list_tools,
        on_list_prompts=handlers.list_prompts,
        on_get_prompt=handlers.get_prompt,
        on_list_resources=handlers.list_resources,
        on_list_resource_templates=handlers.list_templates,
        on_read_resource=handlers.read_resource,
        on_subscribe_resource=handlers.subscribe,
        on_unsubscribe_resource=handlers.unsubscribe,
        on_subscriptions_listen=handlers.listen,
        on_completion=handlers.complete,
    )
    server.add_request_handler("tools/call", types.CallToolRequestParams, handlers.call_tool)
    server.extensions[app.EXTENSION] = {}
    # The sealed state outlives a confirmation, so that a late answer is told why it came too late.
    security = RequestStateSecurity(keys=runtime.keys, ttl=_DAY, bind_principal=principal_of)
    server.middleware.append(_identified)
    server.middleware.append(_truthful)
    server.middleware.append(RequestStateBoundary(security, default_audience=NAME))
    return server


async def _identified(ctx: Context, call_next: CallNext) -> HandlerResult:
    with correlation.request_context(ctx.meta, principal_of(ctx)):
        try:
            return await call_next(ctx)
        except MCPError as error:
            if "requestState" not in error.error.message:
                raise
            hint = f"{error.error.message}. Nothing was done: call again without requestState."
            raise MCPError(error.error.code, hint) from error


async def _truthful(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Promise no news of resources to an older client that there is no session to tell by.

    The icon is told with what the server is asked about itself; the SDK would tell it each time.
    """
    result = await call_next(ctx)
    told: dict[str, Any] = result if isinstance(result, dict) else {}
    if ctx.method == "initialize" and not connection_of(ctx).has_standalone_channel:
        told["capabilities"]["resources"]["subscribe"] = False
    if ctx.method != "server/discover":
        told.get("_meta", {}).get(types.SERVER_INFO_META_KEY, {}).pop("icons", None)
    return result


class _Server(Server[Background]):
    """Promises no more than it does: what it lists never changes."""

    def get_capabilities(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
        *,
        protocol_version: str | None = None,
    ) -> types.ServerCapabilities:
        """What clients of a protocol version are promised."""
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


class _Handlers:
    """One method for each request; the lists are made once and never change."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        changing = ". Nothing can be changed: this server is read-only."
        changing = changing if offer.is_read_only else _CHANGING
        self.instructions = f"{_READING}{changing}{_NUMBERS}{_MORE}"
        self._is_warm = False
        self._tools = {name: _tool(operation) for name, operation in offer.operations.items()}

    async def list_tools(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        self._offer.admit(ctx)
        _begin(params)
        self._warm_up(ctx)
        tools = [self._tools[name] for name in self._offer.usable()]
        if not app.is_shown_by(ctx):
            return types.ListToolsResult(tools=tools)
        # Nobody who shares a cache with this client is to be told of the page.
        return types.ListToolsResult(tools=app.with_page(tools), cache_scope="private")

    async def call_tool(self, ctx: Context, params: types.CallToolRequestParams) -> HandlerResult:
        self._offer.admit(ctx)
        operation, runtime = self._offer.operation(params.name), self._offer.runtime

        async def report(done: float, total: float, what: str) -> None:
            await ctx.session.report_progress(done, total, what)

        async def invoke(approval: Approval | None, can_ask: bool) -> Outcome:  # noqa: FBT001
            caller = caller_of(ctx, can_ask=can_ask)
            async with runtime.invoker(caller.principal, own()) as invoker:
                arguments = params.arguments or {}
                return await invoker.invoke(operation, arguments, caller, approval, report)

        settings = runtime.settings
        patience, console = settings.guard.confirm_ttl, settings.console.url
        outcome = await Conversation(ctx, invoke, patience, console).hold(params)
        if isinstance(outcome, types.InputRequiredResult):
            return outcome
        return _on_the_wire(to_result(operation, outcome))

    def _warm_up(self, ctx: Context) -> None:
        """Once the tools are known, a call is likely to follow: load behind the model's back."""
        if not self._is_warm:
            self._is_warm = True
            ctx.lifespan_context.start(self._offer.runtime.warm_up)

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        """A tool's schema, which the SDK would else make the whole list for with each request."""
        return self._tools[name].input_schema if name in self._tools else None

    async def list_prompts(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        self._offer.admit(ctx)
        _begin(params)
        prompts = [_prompt(prompt) for prompt in self._offer.prompts().values()]
        return types.ListPromptsResult(prompts=prompts)

    async def get_prompt(
        self, ctx: Context, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult:
        self._offer.admit(ctx)
        prompt = self._offer.prompt(params.name)
        given = params.arguments or {}
        if problems := [*prompt.problems(given)]:
            raise invalid("; ".join(problems))
        text = types.TextContent(text=prompt.render(given))
        message = types.PromptMessage(role="user", content=text)
        return types.GetPromptResult(description=prompt.description, messages=[message])

    async def list_resources(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        self._offer.admit(ctx)
        _begin(params)
        return self._resources.list()

    async def list_templates(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        self._offer.admit(ctx)
        _begin(params)
        return self._resources.templates()

    async def read_resource(
        self, ctx: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        self._offer.admit(ctx)
        return await self._resources.read(ctx, params.uri)

    async def subscribe(
        self, ctx: Context, params: types.SubscribeRequestParams
    ) -> types.EmptyResult:
        self._offer.admit(ctx)
        return await self._subscriptions.subscribe(ctx, params)

    async def unsubscribe(
        self, ctx: Context, params: types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        self._offer.admit(ctx)
        return await self._subscriptions.unsubscribe(ctx, params)

    async def listen(
        self, ctx: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        self._offer.admit(ctx)
        return await self._subscriptions.listen(ctx, params)

    async def complete(
        self, ctx: Context, params: types.CompleteRequestParams
    ) -> types.CompleteResult:
        self._offer.admit(ctx)
        return await self._completions.complete(ctx, params)

    # What a client that only has tools does not need is imported when it is asked for.

    @cached_property
    def _resources(self) -> "Resources":
        from calls_mcp.server.resources import Resources  # noqa: PLC0415

        return Resources(self._offer)

    @cached_property
    def _subscriptions(self) -> "Subscriptions":
        from calls_mcp.server.subscriptions import Subscriptions  # noqa: PLC0415

        return Subscriptions(self._offer, self._resources)

    @cached_property
    def _completions(self) -> "Completions":
        from calls_mcp.server.completion import Completions  # noqa: PLC0415

        return Completions(self._offer)


def _begin(params: types.PaginatedRequestParams | None) -> None:
    """Lists have one page: no cursor was ever issued.

    Raises:
        MCPError: One is given.
    """
    if params is not None and params.cursor is not None:
        raise invalid(f"Unknown cursor {quoted(params.cursor, 40)}. This list has one page")


def _on_the_wire(result: types.CallToolResult) -> dict[str, Any]:
    """The result as the SDK would send it, which would first copy each call of a list."""
    told = result.model_dump(by_alias=True, exclude_none=True, exclude={"structured_content"})
    return {**told, "structuredContent": result.structured_content}


def _prompt(prompt: "Prompt") -> types.Prompt:
    return types.Prompt(
        name=prompt.name,
        title=prompt.title,
        description=prompt.description,
        arguments=[
            types.PromptArgument(name=a.name, description=a.description, required=a.required)
            for a in prompt.arguments
        ],
    )


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
