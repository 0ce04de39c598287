"""Asks the human, as the client's protocol era has it, and carries the answer to the path.

A 2026-07-28 client is handed the question and brings the answer in a second request; an older one
is asked while its request waits; one that can't ask its user gets the token instead. Where the
operator decides, a client that can open pages is sent to theirs, likewise.
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
    "The operator must approve this change before anything happens. Their page shows what it would "
    "do, and takes the decision."
)

Context = ServerRequestContext[Any, Any]
Invoke = Callable[[Approval | None, bool], Awaitable[Outcome]]
"""Takes the user's answer, if there is one, and whether the client can ask for it."""


@dataclass(frozen=True, slots=True)
class Elicitation:
    """Asks about one request.

    `timeout` is how long an older client's user may take, in seconds; `console` is where the
    operator decides, if that is known.
    """

    ctx: Context
    invoke: Invoke
    timeout: float
    console: str | None

    async def run(self, params: CallToolRequestParams) -> Outcome | InputRequiredResult:
        """Invoke, and if that needs somebody's word and the client can get it, see that it does."""
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
            return _refusal(token, f"The user could not be asked ({one_line(error.message)}).")
        except ValidationError:
            return _refusal(token, "The client's answer could not be read.")
        return _approval(token, response)

    async def _open_page(
        self, url: str, approval: str, outcome: Outcome
    ) -> Outcome | InputRequiredResult:
        """Have the client open the operator's page; what comes of it, comes from there."""
        if self.ctx.protocol_version >= _MODERN:
            page = ElicitRequestURLParams(message=_LOOK, url=url)
            return InputRequiredResult(input_requests={_PAGE: ElicitRequest(params=page)})
        session, request_id = self.ctx.session, self.ctx.request_id
        response = None
        try:
            with anyio.move_on_after(self.timeout):
                response = await session.elicit_url(_LOOK, url, approval, request_id)
        except (MCPError, ValidationError):
            return outcome  # which names the page, too
        if response is None or response.action == "cancel":
            return outcome
        outcome = await self.invoke(_declined(response), _can_ask(self.ctx))
        if outcome.outcome != "awaiting_operator":
            await session.send_elicit_complete(approval, request_id)
        return outcome


def _can_ask(ctx: Context) -> bool:
    """Whether the client takes forms; one that only opens URLs does not."""
    elicitation = _elicitation(ctx)
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _can_open(ctx: Context) -> bool:
    """Whether the client opens URLs for its user."""
    elicitation = _elicitation(ctx)
    return elicitation is not None and elicitation.url is not None


def _elicitation(ctx: Context) -> ElicitationCapability | None:
    capabilities = ctx.session.client_capabilities
    return capabilities.elicitation if capabilities else None


def _approval_in(params: CallToolRequestParams) -> Approval | None:
    """The answer in a retried request; without the state we issued, no yes counts."""
    if params.request_state is not None:
        return _approval(params.request_state, (params.input_responses or {}).get(_KEY))
    sent = _page_result(params)
    return _declined(sent) if sent else None


def _page_result(params: CallToolRequestParams) -> ElicitResult | None:
    """What became of opening the operator's page, if the client was asked to."""
    response = (params.input_responses or {}).get(_PAGE)
    return response if isinstance(response, ElicitResult) else None


def _declined(response: ElicitResult) -> Approval | None:
    """A user's no, without having looked. That they open the page says nothing of the change."""
    if response.action != "decline":
        return None
    reason = "The user did not want to open the operator's page. Nothing was done."
    return Approval("", approved=False, reason=reason, by="operator")


def _approval(token: str, response: object) -> Approval:
    """Only a literal true approves."""
    match response:
        case ElicitResult(action="accept", content=dict(content)) if content.get(_FIELD) is True:
            return Approval(token, by="elicitation")
        case ElicitResult(action="accept"):
            return _refusal(token, "The user's answer was not a plain yes.")
        case ElicitResult(action="decline"):
            return _refusal(token, "The user said no. Talk to them before you try again.")
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
        "description": "Nothing happens unless this is set.",
    }
    return ElicitRequestFormParams(
        message=confirmation.preview,
        requested_schema={"type": "object", "properties": {_FIELD: field}, "required": [_FIELD]},
    )
