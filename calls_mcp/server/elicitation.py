"""Elicitation: asks the user to confirm a change, as the client's protocol version defines it.

A 2026-07-28 client gets the question as a result and sends the answer in a second request. An older
client is asked while its request waits. A client that can't ask its user gets a token instead, and
so does one that declares elicitation but does not answer. If the operator must approve, a client
that can open pages is asked to open the approval page.
"""

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

import anyio
from mcp.server.context import CallNext, HandlerResult
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolRequestParams,
    ElicitationCapability,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequiredResult,
    methods,
)
from mcp_types.version import LATEST_MODERN_VERSION, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from calls_mcp.observability.redaction import quoted
from calls_mcp.server.permissions import Context, caller_of, connection_of
from calls_mcp.server.results import SANDBOX
from calls_mcp.settings import ConsoleSettings
from calls_mcp.tools.outcome import Answer, Confirmation, Outcome

if TYPE_CHECKING:
    from calls_mcp.service.background_tasks import BackgroundTasks

_LATE = "it did not answer in time"
_ABILITIES = "calls-mcp/abilities"
_MOST_CLIENTS = 1000  # clients of a protocol version without sessions
_REMEMBERED = 3600  # seconds for which such a client is remembered
_KEY, _PAGE = "confirm", "open"
_FIELD = "approve"
_PAGE_STATE = "page:"  # tokens have no colon
_INVALID = "it sent no valid answer"
_YES = {
    "place": "place this call",
    "redirect": "redirect this call",
    "hang_up": "hang up",
    "modify": "change this call",
    "delete": "delete this record",
}
_LOOK = (
    "The operator must approve this change before anything happens. Open the approval page to "
    "see the change and decide."
)
Invoke = Callable[[Answer | None, bool], Awaitable[Outcome]]
"""Invokes a tool, given the user's answer, if any, and whether the client can ask its user."""


@dataclass(slots=True)
class Abilities:
    """What is known of a client: why it could not ask, and whether it failed to open a page.

    A person may leave a question open, so a client that has answered before may be late.
    `answer_due` is when the first answer is due, and `until` is when this is forgotten, both in
    epoch seconds.
    """

    until: float = math.inf
    form_failure: str = ""
    page_failed: bool = False
    answer_due: float = math.inf
    has_answered: bool = False

    def ask(self, due: float) -> None:
        """Note that a question was sent that the client must answer by `due`."""
        if not self.has_answered:
            self.answer_due = min(self.answer_due, due)

    def fail(self, why: str) -> None:
        """Note that the client could not ask its user."""
        if why != _LATE or not self.has_answered:
            self.form_failure = why

    def answer(self) -> None:
        """Note an answer by a person: the client can show forms."""
        self.form_failure, self.answer_due, self.has_answered = "", math.inf, True


_ByClient = OrderedDict[tuple[str, str], Abilities]


class ClientAbilities:
    """What each client can really do, which can differ from what it declares.

    A 2026-07-28 client has no session over HTTP. It is recognized by its principal, name and
    version, for an hour. `clock` returns epoch seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._clients: WeakKeyDictionary[BackgroundTasks, _ByClient] = WeakKeyDictionary()

    def of(self, ctx: Context) -> Abilities:
        """Return the abilities of the client that sent this request."""
        if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            return connection_of(ctx).state.setdefault(_ABILITIES, Abilities())
        caller, now = caller_of(ctx), self.clock()
        clients = self._clients.setdefault(ctx.lifespan_context, OrderedDict())
        key = (caller.principal, caller.client)
        known = clients.get(key)
        if known is None or known.until <= now:
            known = clients[key] = Abilities(now + _REMEMBERED)
        clients.move_to_end(key)
        if len(clients) > _MOST_CLIENTS:
            clients.popitem(last=False)
        if known.answer_due <= now:
            known.fail(_LATE)
        return known


async def ignore_invalid_answers(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Ignore the answers of a tool call that are not valid, as if they were not given.

    The SDK would refuse the whole request, and a client that can't ask would get nowhere.
    """
    params = ctx.params or {}
    if ctx.method != "tools/call" or "inputResponses" not in params:
        return await call_next(ctx)
    sent: object = params["inputResponses"]
    given = cast("dict[str, object]", sent) if isinstance(sent, dict) else {}
    valid = {key: given[key] for key in (_KEY, _PAGE) if _is_valid(given.get(key), ctx)}
    return await call_next(replace(ctx, params={**params, "inputResponses": valid}))


def _is_valid(answer: object, ctx: Context) -> bool:
    params = {**(ctx.params or {}), "inputResponses": {_KEY: answer}}
    try:
        methods.validate_client_request("tools/call", LATEST_MODERN_VERSION, params)
    except ValidationError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Elicitation:
    """Asks the user about one request.

    `timeout` is how long the user of an older client may take, in seconds. `console` has the URL
    of the operator's console, if it is known.
    """

    ctx: Context
    invoke: Invoke
    clients: ClientAbilities
    timeout: float
    console: ConsoleSettings

    async def run(self, params: CallToolRequestParams) -> Outcome | InputRequiredResult:
        """Invoke, and have the client ask for a confirmation if one is needed."""
        abilities = self.clients.of(self.ctx)
        given = _answer_in(params, abilities)
        why = abilities.form_failure
        can_ask = _can_ask(self.ctx) and not why
        outcome = await self.invoke(given, can_ask)
        if can_ask and outcome.confirmation and (token := outcome.confirmation.token):
            question = _question(outcome.confirmation, sandbox=outcome.sandbox)
            if self.ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
                abilities.ask(self.clients.clock() + self.timeout)
                request = ElicitRequest(params=question)
                return InputRequiredResult(input_requests={_KEY: request}, request_state=token)
            answer = await self._elicit(question, token, abilities)
            can_ask = answer.by != "client"
            outcome = await self.invoke(answer, can_ask)
            why = "" if can_ask else answer.reason
        if why and outcome.confirmation and _can_ask(self.ctx):
            instead = ", so it gets a token instead" if outcome.confirmation.token else ""
            outcome = outcome.with_warnings([f"the client could not ask the user ({why}){instead}"])
        return await self._show_page(outcome, params, abilities, can_ask=can_ask)

    async def _elicit(
        self, question: ElicitRequestFormParams, token: str, abilities: Abilities
    ) -> Answer:
        schema, session = question.requested_schema, self.ctx.session
        response = None
        try:
            with anyio.move_on_after(self.timeout):
                response = await session.elicit_form(question.message, schema, self.ctx.request_id)
            why = _LATE if response is None else _INVALID
        except MCPError as error:
            why = f"it answered {quoted(error.message, 100)}"
        except ValidationError:
            why = _INVALID
        return _answer(token, response, abilities, why)

    async def _show_page(
        self,
        outcome: Outcome,
        params: CallToolRequestParams,
        abilities: Abilities,
        *,
        can_ask: bool,
    ) -> Outcome | InputRequiredResult:
        """Have the client open the approval page if the operator must approve the change."""
        approval_id = outcome.confirmation.approval if outcome.confirmation else None
        can_open = _can_open(self.ctx) and not abilities.page_failed
        url = self.console.approval_page(approval_id) if approval_id else None
        if not (approval_id and url and can_open) or _page_result(params):
            return outcome
        opened = await self._open_page(url, approval_id, abilities)
        if isinstance(opened, InputRequiredResult):
            return opened
        if opened is None:
            return outcome  # it names the page, too
        outcome = await self.invoke(_declined(opened, approval_id), can_ask)
        if outcome.outcome != "awaiting_operator":
            await self.ctx.session.send_elicit_complete(approval_id, self.ctx.request_id)
        return outcome

    async def _open_page(
        self, url: str, approval_id: str, abilities: Abilities
    ) -> ElicitResult | InputRequiredResult | None:
        """Have the client open the approval page; None if the user did not see it."""
        response = None
        if self.ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            page = ElicitRequest(params=ElicitRequestURLParams(message=_LOOK, url=url))
            return InputRequiredResult(
                input_requests={_PAGE: page}, request_state=f"{_PAGE_STATE}{approval_id}"
            )
        try:
            with anyio.move_on_after(self.timeout):
                response = await self.ctx.session.elicit_url(
                    _LOOK, url, approval_id, self.ctx.request_id
                )
        except (MCPError, ValidationError):
            abilities.page_failed = True
        return None if response is None or response.action == "cancel" else response


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


def _answer_in(params: CallToolRequestParams, abilities: Abilities) -> Answer | None:
    """Return the answer in a retried request; a yes needs the state that the server issued."""
    sent, state = _page_result(params), params.request_state
    if state is None:
        return _declined(sent) if sent else None
    if not state.startswith(_PAGE_STATE):
        return _answer(state, (params.input_responses or {}).get(_KEY), abilities, _INVALID)
    abilities.page_failed |= sent is None
    return _declined(sent, state.removeprefix(_PAGE_STATE)) if sent else None


def _page_result(params: CallToolRequestParams) -> ElicitResult | None:
    """Return the result of opening the approval page, if the client was asked to."""
    response = (params.input_responses or {}).get(_PAGE)
    return response if isinstance(response, ElicitResult) else None


def _declined(response: ElicitResult, approval_id: str = "") -> Answer | None:
    """Return a refusal if the user did not open the page. Opening it is not an approval."""
    if response.action != "decline":
        return None
    reason = "The user declined to open the approval page. Nothing was done."
    return Answer(approval_id, approved=False, reason=reason, by="operator")


def _answer(token: str, response: object, abilities: Abilities, failure: str) -> Answer:
    """Return an answer from the response of a client. Only a literal true is a yes.

    An answer that is neither a yes nor a no does not come from a person: it is a `failure` of the
    client.
    """
    content = response.content or {} if isinstance(response, ElicitResult) else {}
    approved = content.get(_FIELD)
    match response:
        case ElicitResult(action="accept") if approved is True:
            answer = Answer(token, by="elicitation")
        case ElicitResult(action="accept") if approved is False:
            answer = _refusal(token, "The user did not confirm.")
        case ElicitResult(action="decline"):
            answer = _refusal(token, "The user said no. Talk to them before you try again.")
        case ElicitResult(action="cancel"):
            answer = _refusal(token, "The user dismissed the question.")
        case _:
            abilities.fail(failure)
            return Answer(token, approved=False, reason=failure, by="client")
    abilities.answer()
    return answer


def _refusal(token: str, reason: str) -> Answer:
    return Answer(token, approved=False, reason=f"{reason} Nothing was done.", by="elicitation")


def _question(confirmation: Confirmation, *, sandbox: bool) -> ElicitRequestFormParams:
    field = {
        "type": "boolean",
        "title": f"Yes, {_YES[confirmation.action]}",
        "description": "Nothing happens unless you select this.",
    }
    return ElicitRequestFormParams(
        message=f"[{SANDBOX}]\n{confirmation.preview}" if sandbox else confirmation.preview,
        requested_schema={"type": "object", "properties": {_FIELD: field}, "required": [_FIELD]},
    )
