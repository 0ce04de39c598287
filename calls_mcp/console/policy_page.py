"""Rules: the policy in words, and each setting with where it came from."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from calls_mcp.console.context import House
from calls_mcp.console.rendering import page
from calls_mcp.guard.policy import explain, itemize, load_policy
from calls_mcp.observability.redaction import MASK
from calls_mcp.settings import Settings


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as it is shown: `value` without secrets, `source` in words."""

    name: str
    value: str
    source: str
    meaning: str = ""


async def rules(house: House, request: Request) -> Response:
    """The rules as a file has them now, which servers read when they start."""
    settings = house.settings
    policy = load_policy(settings.guard.policy).under(settings.guard.confirm)
    values = {
        "sentences": explain(policy),
        "file": settings.guard.policy,
        "confirm": settings.guard.confirm,
        "rules": [*_rules(settings)],
        "settings": [*_settings(settings)],
    }
    return page(request, "rules.html", values)


def _rules(settings: Settings) -> Iterator[Setting]:
    file = settings.guard.policy
    for name, value, is_own in itemize(file):
        source = f"{file}" if is_own else "shipped with calls-mcp"
        yield Setting(name, json.dumps(value, ensure_ascii=False), source)


def _settings(settings: Settings) -> Iterator[Setting]:
    fields, given = Settings.variables(), settings.values(given=True)
    for variable, value in settings.values().items():
        source = "environment" if variable in given else "default"
        yield Setting(variable, _shown(value), source, fields[variable].description or "")


def _shown(value: object) -> str:
    """A value that may be read over somebody's shoulder."""
    if value is None or value == "":
        return "not set"
    if isinstance(value, SecretStr):
        return "memory:" if value.get_secret_value() == "memory:" else MASK
    if isinstance(value, bool):
        return "1" if value else "0"
    return f"{value:g}" if isinstance(value, float) else f"{value}"
