"""Check the environment: settings and standard variables, shown without any secret."""

import os
import re
from collections.abc import Iterator, Sequence

from pydantic import SecretStr

from calls_mcp.cli.doctor_checks import Finding
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
_OTHER_VARIABLES = ("NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_SCHEME = re.compile("(https?|socks[45][ah]?|rediss?)://")
_FILE = re.compile("sqlite:///.")
_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[0-9]*)?")
_USER = re.compile(r"(?<=://).*@")
_HEX = re.compile(r"\b[0-9a-fA-F]{32}\b")  # an auth token's form, which no open setting has


def check_settings(*, sandbox: bool) -> tuple[Settings | None, list[Finding]]:
    """Return the settings, or None if the server would not start with them, and the findings."""
    findings = [*_unlikely_values()]
    try:
        settings = load_settings()
    except SettingsError as wrong:
        return None, [*findings, *map(_problem, wrong.problems)]
    given = settings.values(given=True)
    standard = [*_standard_variables()]
    details = (*(_line(variable, value) for variable, value in given.items()), *standard)
    count = f"{len(given)} set, {len(Settings.variables()) - len(given)} left at their defaults"
    if standard:
        count += f"; standard variables in use: {len(standard)}"
    if sandbox and any(name.startswith("TWILIO_") for name in given):
        count += "; TWILIO_* count for nothing with --sandbox"
    return settings, [*findings, Finding(_CHECK, "ok", count, details=details)]


def secrets_in(settings: Settings) -> tuple[str, ...]:
    """Return the secrets that must not be shown, in every form in which they may occur.

    Very short ones are left out: they occur in our own words by chance, and masking them there
    would garble the text and reveal them.
    """
    hidden = [
        value.get_secret_value()
        for variable, value in settings.values(given=True).items()
        if isinstance(value, SecretStr) and variable != _STATE
    ]
    forms = (form for h in hidden for secret in h.split() for form in secret_forms(secret))
    return tuple(form for form in forms if len(form) >= MIN_SECRET_LENGTH)


def mask_secrets(text: str, secrets: Sequence[str]) -> str:
    """Return `text` without `secrets`, and without what looks like one."""
    return _HEX.sub(MASK, masked(_USER.sub(f"{MASK}@", text), secrets))


def _unlikely_values() -> Iterator[Finding]:
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


def _problem(problem: str) -> Finding:
    name = problem.partition(":")[0]
    if name.upper() in REMOVED:
        return Finding(_CHECK, "fatal", problem, f"unset {name}")
    if "unknown setting" in problem:
        return Finding(_CHECK, "fatal", problem, f"rename it, or: unset {name}")
    missing = "is needed" in problem
    return Finding(
        _CHECK, "fatal", problem, f"export {name}=…{'' if missing else f', or unset {name}'}"
    )


def _line(variable: str, value: object) -> str:
    if not isinstance(value, SecretStr):
        shown = one_line(str(value))
    else:
        shown = _mask_url(value.get_secret_value()) if variable == _STATE else MASK
    return f"{variable} = {shown}  (environment)"


def _mask_url(url: str) -> str:
    """Return the parts of a URL that are no secret: its scheme, its host, an SQLite file's path."""
    if url == "memory:" or _FILE.match(url):
        return one_line(url)
    scheme = _SCHEME.match(url)
    start = scheme[0] if scheme else ""
    _, at, place = url.removeprefix(start).rpartition("@")
    place = re.split("[?#]", place)[0]
    is_shown = _HOST.fullmatch(place) and (start or ":" in place)
    return f"{start}{f'{MASK}@' if at else ''}{place if is_shown else MASK}"


def _standard_variables() -> Iterator[str]:
    """Yield the variables of other programs that the server uses, too."""
    for name in (*_PROXIES, *_OTHER_VARIABLES):
        for spelling in (name, name.lower()):
            if value := os.environ.get(spelling):
                is_url = name in _PROXIES or "@" in value or "://" in value
                shown = _mask_url(value) if is_url else one_line(value)
                yield f"{spelling} = {shown}  (environment)"
