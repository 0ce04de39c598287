"""Example data: a day in a bicycle workshop, where agents place calls and Maria approves them."""

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
_HOURS = (3, 6, 8, 5, 4, 7, 6, 5)  # calls in each working hour
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
class Workshop:
    """The workshop in the afternoon, and the SID of a live call."""

    console: ConsoleContext
    clock: ManualClock
    live: str


@asynccontextmanager
async def open_workshop(folder: Path) -> AsyncGenerator[Workshop]:
    """Run the workshop's server and console."""
    file, random = folder / "policy.toml", Random(4)  # noqa: S311  # the same data each time
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
    scripts = {number: _script(random) for number in numbers}
    clock = ManualClock(_BEGINNING)
    async with (
        Emulator(clock=clock, scenario=Scenario(scripts)) as emulator,
        Runtime(settings, access_to(emulator.base_url), clock=clock) as runtime,
        open_console(settings, Address(port=0), runtime, clock) as console,
    ):
        harness = Harness(build_server(runtime), runtime, emulator, clock)
        live = await _Day(harness, console, random, iter(dict.fromkeys(numbers))).run()
        yield Workshop(console, clock, live)


def _script(random: Random) -> Script:
    """Return the behavior of a number that the workshop calls."""
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

    async def run(self) -> str:
        """Simulate the day until the afternoon. Return the SID of a live call."""
        for hour, calls in enumerate(_HOURS):
            for _ in range(calls):
                await self._request_and_decide()
                self.harness.clock.advance(self.random.uniform(3, 7) * _MINUTE)
            self.harness.clock.now = _BEGINNING + _HOUR * (hour + 1)
        for changes in _REFUSED:
            await self._request("", **changes)
        for reason in _DENIED:
            await self._request_and_decide(reason)
        self.harness.clock.advance(12 * _MINUTE)
        return await self._end_of_day()

    async def _end_of_day(self) -> str:
        """Leave two live calls and three pending requests."""
        await self._request_and_decide()
        self.harness.clock.advance(40)
        live = await self._request_and_decide(to="+15005550205")
        self.harness.clock.advance(60)
        await self._request(_TEXTS[2])
        self.harness.clock.advance(90)
        await self._request(_TEXTS[0])
        self.harness.clock.advance(21)
        async with self.harness.connect(name="front desk") as agent:
            await agent.call("update_call", sid=live, status="completed")
        self.harness.clock.advance(14)
        return live

    async def _request_and_decide(self, denied: str = "", **changes: object) -> str:
        """Have an agent request a call and Maria decide. Return the SID of the call, if any."""
        agent, text = self.random.choice(_AGENTS), _SURVEY if denied else ""
        arguments = self._arguments(text, **changes)
        async with self.harness.connect(name=agent) as connected:
            outcome = await connected.call("create_call", **arguments)
            approvals = self.console.approvals
            request = (
                await approvals.find(outcome["confirmation"]["approval"]) if approvals else None
            )
            assert approvals
            assert request
            self.harness.clock.advance(self.random.uniform(4, 50))
            await approvals.decide(request, approve=not denied, by="Maria", reason=denied)
            done: dict[str, Any] = await connected.call("create_call", **arguments)
        return done["call"]["sid"] if "call" in done else ""

    async def _request(self, text: str, **changes: object) -> None:
        async with self.harness.connect(name=self.random.choice(_AGENTS)) as agent:
            await agent.call("create_call", **self._arguments(text, **changes))

    def _arguments(self, text: str, **changes: object) -> dict[str, object]:
        said = text or self.random.choice(_TEXTS)
        twiml = f"<Response><Say>{said}</Say><Enqueue>workshop</Enqueue></Response>"
        return {"to": next(self.numbers), "from": OWN_NUMBERS[1], "twiml": twiml} | changes
