"""The protocol of the drivers in Python: requests and responses are lines of JSON."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Answer = dict[str, Any]


@dataclass
class Plan:
    """How to reach the server, and what the user answers.

    The last answer is given to all further questions. Without any, the user can't be asked.
    """

    command: list[str]
    url: str = ""
    user: list[str] = field(default_factory=list)
    era: str = "auto"
    asked: list[str] = field(default_factory=list)

    def content(self, message: str) -> dict[str, bool] | None:
        """Return the form as the user submits it; nothing if they decline."""
        self.asked.append(message)
        reply = self.user.pop(0) if len(self.user) > 1 else self.user[0]
        return {"approve": True} if reply == "accept" else None


def plan() -> Plan:
    """Return the plan from the command line."""
    return Plan(**json.loads(sys.argv[1]))


def say(**content: object) -> None:
    """Send a line to the test."""
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def tool(description: str | None, parameters: object) -> dict[str, Any]:
    """Return a tool as a model gets it."""
    return {"description": description, "parameters": parameters}


def answer(seen: str, *, failed: bool = False, structured: object = None) -> Answer:
    """Return the result of a tool call; `seen` is what a model would read."""
    return {"seen": seen, "failed": failed, "structured": structured}


async def request() -> tuple[str, dict[str, Any]] | None:
    """Return the next tool to call and its arguments; None at the end."""
    line = await asyncio.to_thread(sys.stdin.readline)
    if not line:
        return None
    asked = json.loads(line)
    return asked["tool"], asked["arguments"]


async def converse(
    plan: Plan,
    tools: Mapping[str, object],
    invoke: Callable[[str, dict[str, Any]], Awaitable[Answer]],
    **about: object,
) -> None:
    """Send the tools, then call those that are requested."""
    say(tools=tools, **about)
    while (asked := await request()) is not None:
        plan.asked.clear()
        say(**await invoke(*asked), asked=plan.asked)
