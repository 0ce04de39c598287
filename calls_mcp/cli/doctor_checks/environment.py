"""The settings: which there are, where they come from, and which could not be meant."""

import os
import re
from collections.abc import Iterator, Sequence

from pydantic import SecretStr

from calls_mcp.cli.doctor_checks.findings import Finding
from calls_mcp.observability.redaction import (
    MASK,
    MIN_SECRET_LENGTH,
    masked,
    one_line,
    secret_forms,
)
from calls_mcp.settings import REMOVED, Settings, SettingsError, load_settings

_CHECK = "settings"
_STATE = "CALLS_MCP_STATE_URL"
_UNEXPANDED = re.compile(r"\$\{[^}]*\}|put your [A-Z_]+ here")
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_PLACES = ("NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_SCHEME = re.compile("(https?|socks[45][ah]?|rediss?)://")
_FILE = re.compile("sqlite:///.")
_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[0-9]*)?")
_USER = re.compile(r"(?<=://).*@")
_HEX = re.compile(r"\b[0-9a-fA-F]{32}\b")  # an auth token's form, which no open setting has


def examine_settings(*, sandbox: bool) -> tuple[Settings | None, list[Finding]]:
    """The settings, unless they are so wrong that the server would not start."""
    findings = [*_oddities()]
    try:
        settings = load_settings()
    except SettingsError as wrong:
        return None, [*findings, *map(_fault, wrong.problems)]
    given = settings.values(given=True)
    others = [*_others()]
    details = (*(_line(variable, value) for variable, value in given.items()), *others)
    count = f"{len(given)} set, {len(Settings.variables()) - len(given)} left at their defaults"
    if others:
        count += f"; standard variables in use: {len(others)}"
    if sandbox and any(name.startswith("TWILIO_") for name in given):
        count += "; TWILIO_* count for nothing with --sandbox"
    return settings, [*findings, Finding(_CHECK, "ok", count, details=details)]


def secrets_in(settings: Settings) -> tuple[str, ...]:
    """What must not be shown, in each form that it may turn up in.

    A form so short that it is in our own words by chance is not among them: it would garble what is
    found, and show by its gaps what it is.
    """
    hidden = [
        value.get_secret_value()
        for variable, value in settings.values(given=True).items()
        if isinstance(value, SecretStr) and variable != _STATE
    ]
    forms = (form for h in hidden for secret in h.split() for form in secret_forms(secret))
    return tuple(form for form in forms if len(form) >= MIN_SECRET_LENGTH)


def discreet(text: str, secrets: Sequence[str]) -> str:
    """`text` without any of `secrets`, nor what has the form of one."""
    return _HEX.sub(MASK, masked(_USER.sub(f"{MASK}@", text), secrets))


def _oddities() -> Iterator[Finding]:
    known = Settings.variables()
    for name, value in sorted(os.environ.items()):
        if name.upper() not in known:
            continue
        if not value:
            message = f"{name} is set to nothing, which counts as not set"
            yield Finding(_CHECK, "note", message, f"give it a value, or: unset {name}")
        elif _UNEXPANDED.search(value):
            message = f"{name} has a placeholder in it that nobody has replaced"
            yield Finding(_CHECK, "problem", message, f"export {name}=…")


def _fault(fault: str) -> Finding:
    name = fault.partition(":")[0]
    if name.upper() in REMOVED:
        return Finding(_CHECK, "fatal", fault, f"unset {name}")
    if "no such setting" in fault:
        return Finding(_CHECK, "fatal", fault, f"rename it, or: unset {name}")
    missing = "is needed" in fault
    return Finding(
        _CHECK, "fatal", fault, f"export {name}=…{'' if missing else f', or unset {name}'}"
    )


def _line(variable: str, value: object) -> str:
    if not isinstance(value, SecretStr):
        shown = one_line(str(value))
    else:
        shown = _open(value.get_secret_value()) if variable == _STATE else MASK
    return f"{variable} = {shown}  (environment)"


def _open(secret: str) -> str:
    """What of a URL is surely no secret: its scheme, its host, and an SQLite file's path."""
    if secret == "memory:" or _FILE.match(secret):  # noqa: S105
        return one_line(secret)
    scheme = _SCHEME.match(secret)
    start = scheme[0] if scheme else ""
    _, at, place = secret.removeprefix(start).rpartition("@")
    place = re.split("[?#]", place)[0]
    is_shown = _HOST.fullmatch(place) and (start or ":" in place)
    return f"{start}{f'{MASK}@' if at else ''}{place if is_shown else MASK}"


def _others() -> Iterator[str]:
    """What is not ours, but counts."""
    for name in (*_PROXIES, *_PLACES):
        for spelling in (name, name.lower()):
            if value := os.environ.get(spelling):
                is_url = name in _PROXIES or "@" in value or "://" in value
                yield f"{spelling} = {_open(value) if is_url else one_line(value)}  (environment)"
