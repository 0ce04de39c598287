"""Check settings, proxy and certificate variables and telemetry, without showing secrets."""

import os
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from calls_mcp.cli.doctor_checks.finding import Finding
from calls_mcp.observability.redaction import (
    MASK,
    MIN_SECRET_LENGTH,
    masked,
    one_line,
    secret_forms,
)
from calls_mcp.settings import REMOVED, Settings, SettingsError, is_loopback, load_settings

PLACEHOLDERS = "placeholders"
_CHECK = "settings"
_STATE = "CALLS_MCP_STATE_URL"
_PLACEHOLDER = re.compile(
    r".*(\$\{[^}]*\}|put your \w+ here|<[\w -]+>|/path/to).*"
    r"|\w*(…|\.{3})"
    r"|(your|their)[-_ ][\w -]+"
    r"|(AC|SK)(.)\5{31}"
    r"|(.*[/. ])?example\.(com|org|net)([/: ].*)?",
    re.IGNORECASE | re.DOTALL,
)
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_OTHER_VARIABLES = ("NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_SCHEME = re.compile("(https?|socks[45][ah]?|rediss?)://")
_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[0-9]*)?")
_USER = re.compile(r"(?<=://)(?<!sqlite://)\S*@")
_AUTH_TOKEN = re.compile(r"(?:(?<=[a-z]://)|(?<![\w/\\]))[0-9a-fA-F]{32}\b")  # but not in a path
_ENV_FILE = Path(".env")
_OTEL = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http", "prometheus_client")
_OURS = re.compile(r"^\s*(export\s+)?(TWILIO|CALLS_MCP)_\w+\s*=", re.MULTILINE)


def check_settings(
    unreplaced: Sequence[str], *, sandbox: bool
) -> tuple[Settings | None, list[Finding]]:
    """Return the settings, or None if the server would not start with them, and the findings.

    `unreplaced` names the variables that have placeholders.
    """
    findings = [*_empty_values()]
    try:
        settings = load_settings()
    except SettingsError as wrong:
        problems = [each for each in wrong.problems if _variable(each) not in unreplaced]
        if unreplaced:
            is_cause = len(problems) < len(wrong.problems)
            findings.append(_placeholders(unreplaced, is_fatal=is_cause))
        return None, [*findings, *map(_problem, problems)]
    if unreplaced:
        findings.append(_placeholders(unreplaced, is_fatal=False))
    given = settings.values(given=True)
    standard = [*_standard_variables()]
    details = (*(_line(variable, value) for variable, value in given.items()), *standard)
    count = f"{len(given)} set, {len(Settings.variables()) - len(given)} at their defaults"
    if standard:
        count += f"; proxy and certificate variables in use: {len(standard)}"
    if sandbox and any(name.startswith("TWILIO_") for name in given):
        count += "; --sandbox ignores TWILIO_*"
    return settings, [*findings, Finding(_CHECK, "ok", count, details=details)]


def check_telemetry(settings: Settings) -> list[Finding]:
    """Check that the libraries for telemetry are installed if it is on."""
    if settings.telemetry.export == "off" and not settings.telemetry.metrics_address:
        return []
    if missing := [name for name in _OTEL if not _is_installed(name)]:
        message = f"not installed: {', '.join(missing)}"
        remedy = "in the checkout of calls-mcp, run: pip install '.[otel]'"
        return [Finding("telemetry", "fatal", message, remedy)]
    where = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    sent = settings.telemetry.export == "otlp"
    if sent and not where:
        message = "sent to http://localhost:4318, the default"
        return [Finding("telemetry", "note", message, "export OTEL_EXPORTER_OTLP_ENDPOINT=URL")]
    return [Finding("telemetry", "ok", "its libraries are installed")]


def placeholders(*, sandbox: bool) -> tuple[str, ...]:
    """Return the names of the settings that still have a placeholder from our documentation."""
    url = os.environ.get("CALLS_MCP_API_BASE_URL", "")
    is_emulator = sandbox or _is_local(url)
    return tuple(
        name
        for name, value in sorted(os.environ.items())
        if name.upper() in Settings.variables()
        and _PLACEHOLDER.fullmatch(value)
        and not (sandbox and name.upper().startswith("TWILIO_"))
        and not (is_emulator and re.fullmatch("(AC|SK)0{32}", value))
    )


def has_env_file() -> bool:
    """Return whether the current directory has a `.env` file with settings of this server."""
    try:
        return bool(_OURS.search(_ENV_FILE.read_text("utf-8-sig", errors="replace")))
    except OSError:
        return False


def secrets_in(settings: Settings) -> tuple[str, ...]:
    """Return the secrets that must not be shown, in all their forms.

    Placeholders and very short secrets are left out, because our own texts may contain them. A mask
    there would reveal the secret.
    """
    values = [
        value.get_secret_value()
        for variable, value in settings.values(given=True).items()
        if isinstance(value, SecretStr) and variable != _STATE
    ]
    secrets = (part for each in values if not _PLACEHOLDER.fullmatch(each) for part in each.split())
    forms = (form for secret in secrets for form in secret_forms(secret))
    return tuple(form for form in forms if len(form) >= MIN_SECRET_LENGTH)


def mask_secrets(text: str, secrets: Sequence[str]) -> str:
    """Return `text` without `secrets`, the user part of URLs and what looks like an auth token."""
    return _AUTH_TOKEN.sub(MASK, masked(_USER.sub(f"{MASK}@", text), secrets))


def mask_url(url: str) -> str:
    """Return the parts of a URL that are not secret: its scheme, its host, an SQLite file's path.

    The URL may be malformed. What is not clearly one of these parts is masked.
    """
    if url == "memory:" or url.startswith("sqlite:"):
        return one_line(url)
    scheme = _SCHEME.match(url)
    start = scheme[0] if scheme else ""
    _, at, place = url.removeprefix(start).rpartition("@")
    place = re.split("[?#]", place)[0]
    is_shown = _HOST.fullmatch(place) and (start or ":" in place)
    return f"{start}{f'{MASK}@' if at else ''}{place if is_shown else MASK}"


def _is_local(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname)
    except ValueError:
        return False


def _placeholders(names: Sequence[str], *, is_fatal: bool) -> Finding:
    message = f"{', '.join(names)}: replace the placeholder with your own value"
    remedy = "export " + " ".join(f"{name}=…" for name in names)
    return Finding(PLACEHOLDERS, "fatal" if is_fatal else "problem", message, remedy)


def _empty_values() -> Iterator[Finding]:
    for name, value in sorted(os.environ.items()):
        if not value and name.upper() in Settings.variables():
            message = f"{name} is empty, so it counts as not set"
            yield Finding(_CHECK, "note", message, f"give it a value, or: unset {name}")


def _variable(problem: str) -> str:
    return problem.partition(":")[0]


def _problem(problem: str) -> Finding:
    name = _variable(problem)
    if name.upper() in REMOVED:
        return Finding(_CHECK, "fatal", problem, f"unset {name}")
    if "unknown setting" in problem:
        return Finding(_CHECK, "fatal", problem, f"correct the name, or: unset {name}")
    is_set = any(value and each.upper() == name.upper() for each, value in os.environ.items())
    remedy = f"export {name}=…{f', or unset {name}' if is_set else ''}"
    return Finding(_CHECK, "fatal", problem, remedy)


def _line(variable: str, value: object) -> str:
    if not isinstance(value, SecretStr):
        shown = one_line(str(int(value) if isinstance(value, bool) else value))
    else:
        shown = mask_url(value.get_secret_value()) if variable == _STATE else MASK
    return f"{variable} = {shown}"


def _standard_variables() -> Iterator[str]:
    """Yield the standard variables that the server also reads, such as proxies."""
    for name in (*_PROXIES, *_OTHER_VARIABLES):
        for spelling in (name, name.lower()):
            if value := os.environ.get(spelling):
                is_url = name in _PROXIES or "@" in value or "://" in value
                shown = mask_url(value) if is_url else one_line(value)
                yield f"{spelling} = {shown}"


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
