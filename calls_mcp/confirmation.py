"""Asks the human, as the client's protocol era has it, and carries the answer to the path.

A 2026-07-28 client is handed the question and brings the answer in a second request; an older one
is asked while its request waits; one that can't ask its user gets the token instead.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
)
from pydantic import ValidationError

from calls_mcp.outcome import Approval, Confirmation, Outcome
from calls_mcp.redaction import one_line

_MODERN = "2026-07-28"
_KEY = "confirm"
_FIELD = "approve"

Context = ServerRequestContext[Any, Any]
Invoke = Callable[[Approval | None, bool], Awaitable[Outcome]]
"""Takes the user's answer, if there is one, and whether the client can ask for it."""


async def converse(
    ctx: Context, params: CallToolRequestParams, invoke: Invoke, patience: float
) -> Outcome | InputRequiredResult:
    """Invoke, and if that needs the user's word and the client can get it, see that it does.

    `patience` is how long an older client's user may take, in seconds.
    """
    can_ask = _can_ask(ctx)
    outcome = await invoke(_brought(params), can_ask)
    confirmation = outcome.get("confirmation")
    token = confirmation.get("token") if confirmation else None
    if confirmation is None or token is None or not can_ask:
        return outcome
    question = _question(confirmation)
    if ctx.protocol_version >= _MODERN:
        request = ElicitRequest(params=question)
        return InputRequiredResult(input_requests={_KEY: request}, request_state=token)
    answer = await _elicit(ctx, question, token, patience)
    return await invoke(answer, can_ask)


def _can_ask(ctx: Context) -> bool:
    """Whether the client takes forms; one that only opens URLs does not."""
    capabilities = ctx.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _brought(params: CallToolRequestParams) -> Approval | None:
    """The answer in a retried request; without the state we issued, it counts for nothing."""
    if params.request_state is None:
        return None
    response = (params.input_responses or {}).get(_KEY)
    return _judged(params.request_state, response)


async def _elicit(
    ctx: Context, question: ElicitRequestFormParams, token: str, patience: float
) -> Approval:
    schema = question.requested_schema
    response = None
    try:
        with anyio.move_on_after(patience):
            response = await ctx.session.elicit_form(question.message, schema, ctx.request_id)
    except MCPError as error:
        return _refusal(token, f"The user could not be asked ({one_line(error.message)}).")
    except ValidationError:
        return _refusal(token, "The client's answer could not be read.")
    return _judged(token, response)


def _judged(token: str, response: object) -> Approval:
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
    action = confirmation.get("action", "").replace("_", " ")
    field = {
        "type": "boolean",
        "title": f"Yes, {action} this call",
        "description": "Nothing happens unless this is set.",
    }
    return ElicitRequestFormParams(
        message=confirmation["preview"],
        requested_schema={"type": "object", "properties": {_FIELD: field}, "required": [_FIELD]},
    )
