"""What the client of a session can really do, which can differ from what it declares."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from calls_mcp.server.permissions import Context, caller_of, connection_of

if TYPE_CHECKING:
    from calls_mcp.service.background_tasks import BackgroundTasks

LATE = "it did not answer in time"

_STATE = "calls-mcp/abilities"
_AT_MOST = 1000  # clients of a protocol version without sessions
_LASTS = 3600  # seconds for which such a client is remembered


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
        if why != LATE or not self.has_answered:
            self.form_failure = why

    def answer(self) -> None:
        """Note an answer by a person: the client can show forms."""
        self.form_failure, self.answer_due, self.has_answered = "", math.inf, True


_ByClient = OrderedDict[tuple[str, str], Abilities]


class Sessions:
    """The abilities of each session's client. `clock` returns epoch seconds.

    A 2026-07-28 client has no session over HTTP. It is recognized by its principal, name and
    version, for an hour.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._clients: WeakKeyDictionary[BackgroundTasks, _ByClient] = WeakKeyDictionary()

    def abilities(self, ctx: Context) -> Abilities:
        """Return the abilities of the client that sent this request."""
        if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            return connection_of(ctx).state.setdefault(_STATE, Abilities())
        caller, now = caller_of(ctx), self.clock()
        clients = self._clients.setdefault(ctx.lifespan_context, OrderedDict())
        key = (caller.principal, caller.client)
        known = clients.get(key)
        if known is None or known.until <= now:
            known = clients[key] = Abilities(now + _LASTS)
        clients.move_to_end(key)
        if len(clients) > _AT_MOST:
            clients.popitem(last=False)
        if known.answer_due <= now:
            known.fail(LATE)
        return known
