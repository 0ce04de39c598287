"""The operator's desk: what waits there for a decision, and what was decided.

Nothing that travels through the model's conversation decides anything here. What was approved runs
once, by the claim that every confirmation has.
"""

import hashlib
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio

from calls_mcp.errors import OutcomeUnknown
from calls_mcp.guard import Binding, Question
from calls_mcp.outcome import Confirmation, Outcome, Report, moment
from calls_mcp.policy import PolicyDenied
from calls_mcp.redaction import quoted
from calls_mcp.store import Case, Docket, Filed, Pending, Ruling, Store, StoreUnavailable

_MOST_WAITING = 20  # of one principal
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5  # seconds between two looks for a decision
_LOOKS = 20
_REMEMBERED = 3600.0  # seconds for which what became of a case is told with the next
_CALL_AGAIN = (
    "Not carried out yet: the operator must approve it{place}, and was asked. Tell your user, then "
    "call again with the same arguments: that waits for the decision and carries it out."
)


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks for a decision, by which client, and which rule demands it, and of whom."""

    binding: Binding
    client: str
    rule: str
    users_too: bool = False


class Desk:
    """Files cases that lapse after `ttl` seconds, and waits `patience` seconds for a decision.

    What was decided can be acted on for another `ttl`. `clock` gives the time in epoch seconds.
    `console` is where the operator decides, if that is known.
    """

    def __init__(
        self,
        store: Store,
        docket: Docket,
        ttl: float,
        patience: float,
        clock: Callable[[], float],
        console: str | None = None,
    ) -> None:
        self._store = store
        self._docket = docket
        self._ttl = ttl
        self._patience = patience
        self._clock = clock
        self._console = console

    async def current(self, binding: Binding) -> Filed | None:
        """The case of just this change of theirs, until it is closed."""
        noted = await self._store.counters.noted(_place(binding))
        return noted and await self._docket.find(noted[0])

    async def file(self, question: Question, asked: Asked) -> Case:
        """Ask the operator, or join those of the same principal who have just asked the same.

        Raises:
            PolicyDenied: Too many of this principal's changes wait already.
        """
        identifier, now = secrets.token_hex(8), self._clock()  # never begins with a dash
        lapses_at = now + self._ttl
        binding, place = asked.binding, _place(asked.binding)
        if await self._store.counters.note(place, 2 * self._ttl, identifier) is None:
            return await self._joined(asked)
        case = Case(
            identifier=identifier,
            binding=binding,
            action=question.action,
            preview=question.preview,
            client=asked.client,
            rule=asked.rule,
            asked_at=now,
            lapses_at=lapses_at,
            users_too=asked.users_too,
        )
        pending = Pending(binding, question.state, lapses_at + self._ttl, is_filed=True)
        if not await self._filed(case, pending):
            raise PolicyDenied(
                asked.rule,
                f"{_MOST_WAITING} changes of the same principal wait for the operator already",
                "Wait until some are decided.",
            )
        return case

    async def _filed(self, case: Case, pending: Pending) -> bool:
        """Whether there was room for it. If there was not, or this is broken off, it is gone."""
        is_filed = False
        try:
            await self._store.put(case.identifier, pending)
            is_filed = await self._docket.file(case, _MOST_WAITING)
        finally:
            if not is_filed:
                with anyio.CancelScope(shield=True), suppress(StoreUnavailable):
                    await self._store.counters.forget(_place(case.binding), case.identifier)
        return is_filed

    async def latest(self, filed: Filed) -> Filed:
        """A case as it stands once all is settled that was decided about it until now."""
        return await self._docket.settled(filed.case.identifier) or filed

    async def wait(self, filed: Filed, until: float, tell: Report) -> Filed:
        """The case, once it is decided or has lapsed, or as it is when patience ends.

        That is at half of the time until `until` (by anyio's clock) at the latest: what is decided
        must still be carried out.
        """
        begun, pause = anyio.current_time(), _FIRST_PAUSE
        patience = max(0.0, min(self._patience, (until - begun) / 2))
        with anyio.move_on_after(patience):
            while filed.ruling is None and not filed.has_lapsed(self._clock()):
                await tell(anyio.current_time() - begun, patience, "waiting for the operator")
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                filed = await self._docket.find(filed.case.identifier) or filed
        return filed

    def awaiting(self, case: Case) -> Outcome:
        """What an agent is told of a case that waits."""
        place = f" at {page_of(self._console, case.identifier)}" if self._console else ""
        confirmation = Confirmation(
            action=case.action,
            preview=case.preview,
            approval=case.identifier,
            expires_at=moment(case.lapses_at),
        )
        return Outcome(
            outcome="awaiting_operator",
            confirmation=confirmation,
            reason=_CALL_AGAIN.format(place=place),
        )

    async def withdraw(self, case: Case, by: str, reason: str) -> None:
        """See that nobody approves it any more, unless that is decided already."""
        ruling = Ruling(is_approval=False, by=by, at=self._clock(), reason=reason)
        await self._docket.rule(case.identifier, ruling)

    async def close(self, binding: Binding, identifier: str) -> None:
        """Let the same be asked anew, once it is settled what became of a case.

        While the store is away the case stays open: whoever asks the same is told its outcome.
        """
        counters, last = self._store.counters, _place(binding, "last")
        with suppress(StoreUnavailable):
            if before := await counters.noted(last):
                await counters.forget(last, before[0])
            await counters.note(last, _REMEMBERED, identifier)
            await counters.forget(_place(binding), identifier)

    async def earlier(self, binding: Binding) -> tuple[str, ...]:
        """What became of just this change of theirs before, for whoever decides about it now."""
        noted = await self._store.counters.noted(_place(binding, "last"))
        filed = noted and await self._docket.find(noted[0])
        if not filed or filed.ruling is None:
            return ()
        ruling = filed.ruling
        told = f"The same was {ruling.word} before, by {quoted(ruling.by)}, {moment(ruling.at)}"
        if not ruling.is_approval:
            return (f"{told}.",)
        return (f"{told}, and {_what_became(await self._store.outcome(filed.case.identifier))}.",)

    async def _joined(self, asked: Asked) -> Case:
        """The case that was filed first, as soon as it is there."""
        for _ in range(_LOOKS):
            if filed := await self.current(asked.binding):
                return filed.case
            await anyio.sleep(_FIRST_PAUSE)
        counters, place = self._store.counters, _place(asked.binding)
        if noted := await counters.noted(place):  # whoever asked first had no room, or died
            await counters.forget(place, noted[0])
        raise PolicyDenied(asked.rule, "it could not be put before the operator", "Call again.")


def page_of(console: str, identifier: str) -> str:
    """Where the console at this URL shows a case."""
    return f"{console}/waiting/{identifier}"


def _what_became(outcome: Outcome) -> str:
    if outcome.outcome == "done":
        return f"done: {outcome.call.sid}" if outcome.call else "done"
    if outcome.error_kind == OutcomeUnknown.kind:
        return "it is not known whether it was done"
    return "not done"


def _place(binding: Binding, kind: str = "case") -> str:
    exact = json.dumps([binding.tool, binding.arguments, binding.principal])
    return f"{kind}:{hashlib.sha256(exact.encode()).hexdigest()}"
