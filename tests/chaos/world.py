"""One world: an emulator, a proxy full of faults, servers that restart, and their clients."""

import json
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult

from calls_mcp.emulator import Account, Emulator, ManualClock
from calls_mcp.guard.operator_decisions import Approvals, open_approvals
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import Access, load_settings
from tests.chaos.model import Attempt, Change, Model, Told, Violation, kind_of, require
from tests.chaos.proxy import Fault, Proxy
from tests.harness import ACCOUNT, PERMISSIVE, Agent, Harness, Reply, User, approve, structured
from tests.upstream import SECRET, Upstream, access

SECRETS = access("http://127.0.0.1").secrets
_POLL = 0.05  # seconds
_LONGEST_RUN = 10  # seconds
_HANGS = 30  # seconds after which an invocation counts as hung
_KEPT = 300 + 3600  # seconds for which a used token returns its result, at least


@dataclass
class Totals:
    """The totals of one or more worlds."""

    operations: Counter[str] = field(default_factory=Counter[str])
    faults: Counter[str] = field(default_factory=Counter[str])
    outcomes: Counter[str] = field(default_factory=Counter[str])
    figures: Counter[str] = field(default_factory=Counter[str])

    def add(self, other: "Totals") -> None:
        """Add the totals of another world."""
        pairs = zip(self.by_title().values(), other.by_title().values(), strict=True)
        for mine, others in pairs:
            mine.update(others)

    def by_title(self) -> Mapping[str, Counter[str]]:
        """Return all totals by title."""
        return {
            f"operations: {self.operations.total():,}": self.operations,
            f"requests: {self.faults.total():,}, by fault": self.faults,
            f"results: {self.outcomes.total():,}": self.outcomes,
            "of the changes": self.figures,
        }


@dataclass(eq=False)
class Question:
    """A confirmation token, and the attempt that it is for; `asked_at` by the world's clock."""

    attempt: Attempt
    token: str
    asked_at: float


@dataclass(eq=False)
class Requested:
    """An approval request, and the attempt that it is for."""

    attempt: Attempt
    identifier: str


@dataclass
class World:
    """A world, and its model.

    `in_flight` has the markers of deletions that may still be sent, because their client has
    disconnected or an operator has approved them.
    """

    random: Random
    emulator: Emulator
    clock: ManualClock
    upstream: Upstream
    proxy: Proxy
    model: Model
    folder: Path
    confirm: str
    agents: dict[str, Agent] = field(default_factory=dict[str, Agent])
    reply: Reply = approve
    questions: list[Question] = field(default_factory=list[Question])
    requested: list[Requested] = field(default_factory=list[Requested])
    totals: Totals = field(default_factory=Totals)
    history: list[str] = field(default_factory=list[str])
    in_flight: set[str] = field(default_factory=set[str])
    _markers: int = 0
    _approvals: Approvals = field(init=False)
    _server: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def audit_file(self) -> Path:
        """The database with the state and the audit log."""
        return self.folder / "state.db"

    async def start(self, base_url: str = "") -> None:
        """Start two servers with the files of the previous ones."""
        reached = access(base_url or self.upstream.base_url, timeout=0.3, deadline=1)
        enter, user = self._server.enter_async_context, User(self._answer)
        one, two = [await enter(self._serve(reached, self.confirm)) for _ in range(2)]
        three, four = [await enter(self._serve(reached, "operator")) for _ in range(2)]
        settings = three.runtime.settings
        self._approvals = await enter(open_approvals(settings, self.clock))
        self.agents = {
            "modern": await enter(one.connect("auto")),
            "legacy": await enter(one.connect("legacy")),
            "replica": await enter(two.connect("auto")),
            "modern with user": await enter(one.connect("auto", user)),
            "legacy with user": await enter(one.connect("legacy", user)),
            "replica with user": await enter(two.connect("auto", user)),
            "stranger": await enter(one.connect("auto", name="stranger")),
            "operated": await enter(three.connect("auto", name="operated")),
            "operated replica": await enter(four.connect("auto", name="operated")),
        }

    @asynccontextmanager
    async def _serve(self, reached: Access, confirm: str) -> AsyncGenerator[Harness]:
        settings = load_settings(
            {
                "calls_mcp_policy": PERMISSIVE,
                "calls_mcp_confirm": confirm,
                "calls_mcp_state_url": f"sqlite:///{self.audit_file}",
                "calls_mcp_audit_numbers": "whole",
            }
        )
        async with Runtime(settings, reached, clock=self.clock, poll=_POLL) as runtime:
            yield Harness(build_server(runtime), runtime, self.emulator, self.clock)

    async def stop(self) -> None:
        """Stop the servers, which first finish the requests in progress."""
        await self._server.aclose()

    async def call(self, who: str, tool: str, arguments: Mapping[str, object]) -> Told:
        """Call a tool. The result must be valid."""
        self.history.append(f"{who}: {tool} {dict(arguments)}")
        try:
            with anyio.fail_after(_HANGS):
                # The client checks the result against the published schema.
                result = await self.agents[who].client.call_tool(tool, {**arguments})
        except (MCPError, RuntimeError, TimeoutError) as error:
            raise Violation(f"{tool} {arguments} raised {error!r}") from error
        told = structured(result)
        self.history.append(f"    {json.dumps(told)}")
        require_secrecy(result.model_dump_json())
        require(result.is_error == ("error" in told), "is_error is wrong", told)
        recovered = ", recovered" if "recovered" in told else ""
        self.totals.outcomes[f"{kind_of(told)}{recovered}"] += 1
        return told

    async def ask(self, who: str, change: Change) -> Question | None:
        """Request a change. Return the question, unless the change was made at once."""
        attempt = self.model.open(change)
        attempt.is_approved = True  # if the operator requires no confirmation
        told = await self.call(who, change.tool, change.arguments)
        if "confirmation" not in told:
            self.model.note(attempt, told)
            return None
        attempt.is_approved = False
        question = Question(attempt, told["confirmation"]["token"], self.clock())
        self.questions.append(question)
        return question

    async def use(self, who: str, question: Question) -> Told:
        """Use a token. All uses after the first return the same and send nothing."""
        attempt = question.attempt
        marker, is_used = attempt.change.marker, attempt.told is not None
        sent = self.proxy.sent[marker]
        attempt.is_approved = True
        arguments = {**attempt.change.arguments, "confirmation_token": question.token}
        told = await self.call(who, attempt.change.tool, arguments)
        if attempt.told is None:
            self.model.note(attempt, told)
            return told
        has_lapsed = told["outcome"] == "expired" and self.clock() >= question.asked_at + _KEPT
        is_same = _without_warnings(told) == _without_warnings(attempt.told)
        require(is_same or has_lapsed, "a used token tells something else", attempt.told, told)
        if is_used and marker not in self.in_flight:
            require(self.proxy.sent[marker] == sent, "a used token sends something", told)
        return told

    async def request(self, who: str, change: Change) -> Requested | None:
        """Request a change that the operator must approve, unless it fails at once."""
        attempt = self.model.open(change)
        told = await self.call(who, change.tool, change.arguments)
        if told["outcome"] != "awaiting_operator":
            self.model.note(attempt, told)
            return None
        requested = Requested(attempt, told["confirmation"]["approval"])
        self.requested.append(requested)
        return requested

    async def decide(self, requested: Requested, *, approve: bool) -> None:
        """Approve or deny a request. An approved change may run at any time from now on."""
        self.history.append(f"operator: approve={approve} {requested.identifier}")
        request = await self._approvals.find(requested.identifier)
        if request is None:
            return
        if approve:
            requested.attempt.is_approved = True
            if requested.attempt.change.action == "delete":
                self.in_flight.add(requested.attempt.change.marker)
        await self._approvals.decide(request, approve=approve, by="operator")

    async def run_by_itself(self, requested: Requested) -> None:
        """Wait until the server has made an approved change, or has stopped."""
        if request := await self._approvals.find(requested.identifier):
            await self._approvals.result(request, _LONGEST_RUN)
        await self.hear(requested)

    async def repeat(self, who: str, requested: Requested) -> None:
        """Repeat a request. A client gets one outcome only."""
        change = requested.attempt.change
        told = await self.call(who, change.tool, change.arguments)
        await self.hear(requested)
        first = requested.attempt.told
        if told["outcome"] == "done":
            is_same = first is not None and _without_warnings(told) == _without_warnings(first)
            require(is_same, "an approved request tells something else", first, told)

    async def hear(self, requested: Requested) -> None:
        """Note the outcome of a request, if it is known."""
        attempt = requested.attempt
        request = await self._approvals.find(requested.identifier)
        outcome = request and (await self._approvals.progress(request)).outcome
        if outcome and attempt.told is None:
            self.history.append(f"    {requested.identifier}: {outcome.to_json()}")
            self.model.note(attempt, outcome.content())

    async def learn(self) -> None:
        """Repeat each request whose client disconnected before it got the result."""
        for requested in self.requested:
            await self.hear(requested)
            if requested.attempt.is_approved and requested.attempt.told is None:
                await self.repeat("operated", requested)
        for question in self.questions:
            if question.attempt.is_approved and question.attempt.told is None:
                await self.use("modern", question)

    def new_marker(self) -> str:
        """Return a URL that no other change has."""
        self._markers += 1
        return f"https://chaos.example.com/{self._markers}"

    def _answer(self, message: str) -> ElicitResult:
        return self.reply(message)


@asynccontextmanager
async def open_world(seed: int, folder: Path, faults: Mapping[str, Fault]) -> AsyncGenerator[World]:
    """Open a world. Its faults and operations follow from the `seed`."""
    draw, weather = Random(seed), Random(seed)  # noqa: S311  # to be drawn alike again
    clock = ManualClock(1_700_000_000)
    account = Account(ACCOUNT, SECRET)
    async with Emulator(account=account, clock=clock, strict=True) as emulator:
        rate = draw.choice([0.1, 0.3, 0.6])
        proxy = Proxy(emulator.base_url, weather, rate, faults)
        confirm = draw.choice(["all", "all", "all", "destructive", "none"])
        async with Upstream(proxy) as upstream:
            world = World(draw, emulator, clock, upstream, proxy, Model(emulator), folder, confirm)
            await world.start()
            try:
                yield world
            finally:
                await world.stop()


def require_secrecy(text: str) -> None:
    """Check that a text has no credentials.

    Raises:
        Violation: It has some.
    """
    require(not any(secret in text for secret in SECRETS), "the secret is shown", text[:500])


def _without_warnings(told: Told) -> dict[str, object]:
    return {name: value for name, value in told.items() if name != "warnings"}
