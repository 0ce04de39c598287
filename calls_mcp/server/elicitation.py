"""Elicitation: asks the user to confirm a change, in the way of the client's protocol version.

A 2026-07-28 client gets the question as a result and sends the answer in a second request. An older
client is asked while its request waits. A client that can't ask its user gets a token instead. If
the operator must approve, a client that can open pages is asked to open the approval page.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolRequestParams,
    ElicitationCapability,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequiredResult,
)
from pydantic import ValidationError

from calls_mcp.observability.redaction import one_line
from calls_mcp.tools.outcome import Approval, Confirmation, Outcome

_MODERN = "2026-07-28"
_KEY, _PAGE = "confirm", "open"
_FIELD = "approve"
_LOOK = (
    "The operator must approve this change before anything happens. Open the operator's page to "
    "see the change and decide."
)

Context = ServerRequestContext[Any, Any]
Invoke = Callable[[Approval | None, bool], Awaitable[Outcome]]
"""Invokes with the user's answer, if there is one, and whether the client can ask its user."""


@dataclass(frozen=True, slots=True)
class Elicitation:
    """Asks the user about one request.

    `timeout` is how long the user of an older client may take, in seconds. `console` is the URL of
    the operator's console, if it is known.
    """

    ctx: Context
    invoke: Invoke
    timeout: float
    console: str | None

    async def run(self, params: CallToolRequestParams) -> Outcome | InputRequiredResult:
        """Invoke, and have the client ask for a confirmation if one is needed."""
        can_ask = _can_ask(self.ctx)
        outcome = await self.invoke(_approval_in(params), can_ask)
        confirmation = outcome.confirmation
        if confirmation is None:
            return outcome
        if can_ask and (token := confirmation.token):
            return await self._ask(_question(confirmation), token)
        approval = confirmation.approval
        if approval and self.console and _can_open(self.ctx) and _page_result(params) is None:
            from calls_mcp.guard.approval_requests import page_of  # noqa: PLC0415  # 70 ms

            return await self._open_page(page_of(self.console, approval), approval, outcome)
        return outcome

    async def _ask(
        self, question: ElicitRequestFormParams, token: str
    ) -> Outcome | InputRequiredResult:
        if self.ctx.protocol_version >= _MODERN:
            request = ElicitRequest(params=question)
            return InputRequiredResult(input_requests={_KEY: request}, request_state=token)
        return await self.invoke(await self._elicit(question, token), _can_ask(self.ctx))

    async def _elicit(self, question: ElicitRequestFormParams, token: str) -> Approval:
        schema, session = question.requested_schema, self.ctx.session
        response = None
        try:
            with anyio.move_on_after(self.timeout):
                response = await session.elicit_form(question.message, schema, self.ctx.request_id)
        except MCPError as error:
            return _refusal(
                token, f"The client could not ask the user ({one_line(error.message)})."
            )
        except ValidationError:
            return _refusal(token, "The client sent an invalid answer.")
        return _approval(token, response)

    async def _open_page(
        self, url: str, approval: str, outcome: Outcome
    ) -> Outcome | InputRequiredResult:
        """Have the client open the operator's page, where the operator decides."""
        if self.ctx.protocol_version >= _MODERN:
            page = ElicitRequestURLParams(message=_LOOK, url=url)
            return InputRequiredResult(input_requests={_PAGE: ElicitRequest(params=page)})
        session, request_id = self.ctx.session, self.ctx.request_id
        response = None
        try:
            with anyio.move_on_after(self.timeout):
                response = await session.elicit_url(_LOOK, url, approval, request_id)
        except (MCPError, ValidationError):
            return outcome  # it names the page, too
        if response is None or response.action == "cancel":
            return outcome
        outcome = await self.invoke(_declined(response), _can_ask(self.ctx))
        if outcome.outcome != "awaiting_operator":
            await session.send_elicit_complete(approval, request_id)
        return outcome


def _can_ask(ctx: Context) -> bool:
    """Return whether the client shows forms; one that only opens URLs does not."""
    elicitation = _elicitation(ctx)
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _can_open(ctx: Context) -> bool:
    """Return whether the client opens URLs for its user."""
    elicitation = _elicitation(ctx)
    return elicitation is not None and elicitation.url is not None


def _elicitation(ctx: Context) -> ElicitationCapability | None:
    capabilities = ctx.session.client_capabilities
    return capabilities.elicitation if capabilities else None


def _approval_in(params: CallToolRequestParams) -> Approval | None:
    """Return the answer in a retried request; a yes needs the state that the server issued."""
    if params.request_state is not None:
        return _approval(params.request_state, (params.input_responses or {}).get(_KEY))
    sent = _page_result(params)
    return _declined(sent) if sent else None


def _page_result(params: CallToolRequestParams) -> ElicitResult | None:
    """Return the result of opening the operator's page, if the client was asked to."""
    response = (params.input_responses or {}).get(_PAGE)
    return response if isinstance(response, ElicitResult) else None


def _declined(response: ElicitResult) -> Approval | None:
    """Return a refusal if the user did not open the page. Opening it is not an approval."""
    if response.action != "decline":
        return None
    reason = "The user declined to open the operator's page. Nothing was done."
    return Approval("", approved=False, reason=reason, by="operator")


def _approval(token: str, response: object) -> Approval:
    """Return the answer as an approval, which only a literal true is."""
    match response:
        case ElicitResult(action="accept", content=dict(content)) if content.get(_FIELD) is True:
            return Approval(token, by="elicitation")
        case ElicitResult(action="accept"):
            return _refusal(token, "The user did not confirm.")
        case ElicitResult(action="decline"):
            return _refusal(token, "The user declined. Talk to them before you try again.")
        case ElicitResult():
            return _refusal(token, "The user dismissed the question.")
        case _:
            return _refusal(token, "The user did not answer.")


def _refusal(token: str, reason: str) -> Approval:
    return Approval(token, approved=False, reason=f"{reason} Nothing was done.", by="elicitation")


def _question(confirmation: Confirmation) -> ElicitRequestFormParams:
    action = confirmation.action.replace("_", " ")
    field = {
        "type": "boolean",
        "title": f"Yes, {action} this call",
        "description": "Nothing happens unless you select this.",
    }
    return ElicitRequestFormParams(
        message=confirmation.preview,
        requested_schema={"type": "object", "properties": {_FIELD: field}, "required": [_FIELD]},
    )
