"""Policy: a summary, and the source of each rule and setting."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass

import anyio.to_thread
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from calls_mcp.audit.search import AuditReader
from calls_mcp.console.context import ConsoleContext
from calls_mcp.console.templating import page
from calls_mcp.errors import StoreUnavailable
from calls_mcp.guard.policy.explanation import explain_by_topic, requirements
from calls_mcp.guard.policy.rules import Policy, Requirement, itemize, load_policy
from calls_mcp.observability.redaction import MASK
from calls_mcp.settings import Settings
from calls_mcp.storage.records import DAY
from calls_mcp.tools.humanize import iso_time

_LINK = re.compile(r": see \[[^\]]+\]\([^)]+\)")  # in Markdown, for docs/settings.md
_NEEDS: Mapping[Requirement, str] = {
    "never": "No confirmation",
    "confirm": "User's confirmation",
    "require_human": "User's confirmation or operator's approval",
    "operator": "Operator's approval",
    "deny": "Refused",
}
_USES = {
    "calls_per_minute": "{} calls in the last minute",
    "calls_per_hour": "{} calls in the last hour",
    "calls_per_day": "{} calls in the last 24 h",
    "in_flight": "{} live calls",
    "minutes_per_day": "{} min of talk time in the last 24 h",
}


@dataclass(frozen=True, slots=True)
class _PolicyRow:
    """A rule or a setting. `value` contains no secrets."""

    name: str
    value: str
    source: str
    meaning: str = ""

    def matches(self, search: str) -> bool:
        """Return whether any part of the row contains the text that is searched for."""
        return search.casefold() in " ".join(astuple(self)).casefold()


class PolicyPage:
    """The page about the policy. It reads the file on each visit; servers read it once."""

    def __init__(self, console: ConsoleContext) -> None:
        self._console = console
        self._settings = console.settings
        self.routes = [Route("/policy", self.show)]

    async def show(self, request: Request) -> Response:
        """Show the rules and the console's settings."""
        guard, search = self._settings.guard, request.query_params.get("search", "").strip()
        policy = load_policy(guard.policy).under(guard.confirm)
        values = {
            "requirements": [(name, need, _NEEDS[need]) for name, need, _ in requirements(policy)],
            "topics": explain_by_topic(policy),
            "usage": await self._usage(policy),
            "file": guard.policy,
            "confirm": guard.confirm,
            "search": search,
            "rules": [row for row in _rules(self._settings) if row.matches(search)],
            "settings": [row for row in _settings(self._settings) if row.matches(search)],
        }
        return page(request, "policy.html", values)

    async def _usage(self, policy: Policy) -> Mapping[str, Sequence[str]]:
        """Return how much of the limits is used now, by principal; "" for all together."""
        console, principals = self._console, list[str]()
        if console.runtime is None or self._settings.storage.is_memory:
            return {}
        if console.audit_database and any(astuple(policy.caps.principal)):
            since = iso_time(console.clock() - DAY)
            read = AuditReader(console.audit_database).principals
            principals = await anyio.to_thread.run_sync(read, since)
        changes = await console.runtime.changes()
        limits = changes.limits(console.runtime.access, policy)
        found: dict[str, list[str]] = {}
        try:
            usage = await limits.usage(principals)
        except StoreUnavailable:
            return {"": ["unknown, because the state store does not respond"]}
        for each in usage:
            text = _USES[each.name].format(f"{each.used:,} of {each.amount:,}")
            found.setdefault(each.principal, []).append(text)
        return found


def _rules(settings: Settings) -> Iterator[_PolicyRow]:
    file = settings.guard.policy
    for name, value, is_own in itemize(file):
        source = f"{file}" if is_own else "default"
        yield _PolicyRow(name, json.dumps(value, ensure_ascii=False), source)


def _settings(settings: Settings) -> Iterator[_PolicyRow]:
    fields, given = Settings.variables(), settings.values(given=True)
    for variable, value in settings.values().items():
        source = "environment" if variable in given else "default"
        yield _PolicyRow(
            variable, _format(value), source, _LINK.sub("", fields[variable].description or "")
        )


def _format(value: object) -> str:
    """Return a value with secrets masked."""
    if value is None or value == "":
        return "not set"
    if isinstance(value, SecretStr):
        return "memory:" if value.get_secret_value() == "memory:" else MASK
    if isinstance(value, bool):
        return "1" if value else "0"
    return f"{value:g}" if isinstance(value, float) else f"{value}"
