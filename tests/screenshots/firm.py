"""A day in a small firm: a bicycle workshop whose agents telephone, and whose Maria decides."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from calls_mcp.console import Address, ConsoleContext, open_console
from calls_mcp.emulator import OWN_NUMBERS, Emulator, ManualClock, Scenario, Script
from calls_mcp.server.handlers import build_server
from calls_mcp.service.runtime import Runtime
from calls_mcp.settings import load_settings
from tests.harness import Harness, access_to

_BEGINNING = 1_780_473_600  # a Wednesday in June, 08:00 UTC
_HOUR, _MINUTE = 3600, 60  # seconds
_HOURS = (3, 6, 8, 5, 4, 7, 6, 5)  # calls in each hour of work
_POLICY = """
[confirm]
place = "operator"
hang_up = "operator"
delete = "deny"
[caps]
time_limit = 900
"""
_CITIES = ("+120255501", "+120255501", "+131255501", "+4420794601", "+49302312510")
_AGENTS = ("front desk", "workshop", "bookings")
_TEXTS = (
    "Hello, this is Spoke and Chain. Your bicycle is ready: we are open until six.",
    "Hello, Spoke and Chain here. Are the brake pads of our order 1182 on their way?",
    "Hello, this is Spoke and Chain. We look forward to seeing you tomorrow at ten.",
)
_SURVEY = "Hello, this is Spoke and Chain. Would you take part in a short survey?"
_DENIED = ("She was called this morning.", "No surveys by telephone, please.", "Not this number.")
_REFUSED: tuple[dict[str, object], ...] = (
    {"to": "+19005550123"},
    {"to": "+19005550123"},
    {"record": True},
    {"time_limit": 3600},
)


@dataclass
class Firm:
    """The firm in the afternoon, and a call that is live just then."""

    console: ConsoleContext
    clock: ManualClock
    live: str


@asynccontextmanager
async def open_firm(folder: Path) -> AsyncGenerator[Firm]:
    """The firm, and its console."""
    file, random = folder / "policy.toml", Random(4)  # noqa: S311  # the same day each time
    file.write_text(_POLICY, "utf-8")
    settings = load_settings(
        {
            "calls_mcp_policy": file,
            "calls_mcp_state_url": f"sqlite:///{folder}/state.db",
            "calls_mcp_audit_database": folder / "audit.db",
        }
    )
    numbers = [f"{city}{last:02}" for last in range(10, 40) for city in _CITIES]
    random.shuffle(numbers)
    people = {number: _somebody(random) for number in numbers}
    clock = ManualClock(_BEGINNING)
    async with (
        Emulator(clock=clock, scenario=Scenario(people)) as emulator,
        Runtime(settings, access_to(emulator.base_url), clock=clock) as runtime,
        open_console(settings, Address(port=0), runtime, clock) as console,
    ):
        harness = Harness(build_server(runtime), runtime, emulator, clock)
        live = await _Day(harness, console, random, iter(dict.fromkeys(numbers))).pass_by()
        yield Firm(console, clock, live)


def _somebody(random: Random) -> Script:
    """How somebody whom the firm calls answers."""
    return Script(
        end_as=random.choice(("completed",) * 6 + ("no-answer", "busy")),
        answer_after=round(random.uniform(3, 20)),
        talk_for=round(min(700, random.expovariate(1 / 100))),
    )


@dataclass
class _Day:
    harness: Harness
    console: ConsoleContext
    random: Random
    numbers: Iterator[str]

    async def pass_by(self) -> str:
        """What happens until the afternoon; the SID of a call that is live then."""
        for hour, calls in enumerate(_HOURS):
            for _ in range(calls):
                await self._decided()
                self.harness.clock.advance(self.random.uniform(3, 7) * _MINUTE)
            self.harness.clock.now = _BEGINNING + _HOUR * (hour + 1)
        for changes in _REFUSED:
            await self._asked("", **changes)
        for reason in _DENIED:
            await self._decided(reason)
        self.harness.clock.advance(12 * _MINUTE)
        return await self._now()

    async def _now(self) -> str:
        """Two calls are live, three changes wait."""
        await self._decided()
        self.harness.clock.advance(40)
        talking = await self._decided(to="+15005550205")
        self.harness.clock.advance(60)
        await self._asked(_TEXTS[2])
        self.harness.clock.advance(90)
        await self._asked(_TEXTS[0])
        self.harness.clock.advance(21)
        async with self.harness.connect(name="front desk") as agent:
            await agent.call("update_call", sid=talking, status="completed")
        self.harness.clock.advance(14)
        return talking

    async def _decided(self, denied: str = "", **changes: object) -> str:
        """Have an agent ask, and Maria decide; the SID of the call, if there is one."""
        agent, text = self.random.choice(_AGENTS), _SURVEY if denied else ""
        arguments = self._arguments(text, **changes)
        async with self.harness.connect(name=agent) as connected:
            outcome = await connected.call("create_call", **arguments)
            approvals = self.console.approvals
            filed = await approvals.find(outcome["confirmation"]["approval"]) if approvals else None
            assert approvals
            assert filed
            self.harness.clock.advance(self.random.uniform(4, 50))
            await approvals.decide(filed, approve=not denied, by="Maria", reason=denied)
            done: dict[str, Any] = await connected.call("create_call", **arguments)
        return done["call"]["sid"] if "call" in done else ""

    async def _asked(self, text: str, **changes: object) -> None:
        async with self.harness.connect(name=self.random.choice(_AGENTS)) as agent:
            await agent.call("create_call", **self._arguments(text, **changes))

    def _arguments(self, text: str, **changes: object) -> dict[str, object]:
        said = text or self.random.choice(_TEXTS)
        twiml = f"<Response><Say>{said}</Say></Response>"
        return {"to": next(self.numbers), "from": OWN_NUMBERS[1], "twiml": twiml} | changes
