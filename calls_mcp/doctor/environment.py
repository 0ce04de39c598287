"""The settings: which there are, where they come from, and which could not be meant."""

import os
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from pydantic import SecretStr

from calls_mcp.doctor.findings import Finding
from calls_mcp.errors import ConfigurationError
from calls_mcp.redaction import MASK, one_line, spellings
from calls_mcp.settings import Settings, load_settings

_CHECK = "settings"
_UNEXPANDED = re.compile(r"\$\{[^}]*\}|put your [A-Z_]+ here")
_OTHERS = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_HEX = re.compile(r"\b[0-9a-fA-F]{32}\b")  # an auth token's form, which no open setting has
_NEXT = re.compile(r"; (?=[A-Z_]+: )")


def examine_settings(*, sandbox: bool) -> tuple[Settings | None, list[Finding]]:
    """The settings, unless they are so wrong that the server would not start."""
    findings = [*_oddities()]
    try:
        settings = load_settings()
    except ConfigurationError as wrong:
        faults = _NEXT.split(str(wrong).removeprefix("Wrong settings: "))
        return None, [*findings, *map(_fault, faults)]
    known = [field for field in Settings.model_fields if field in settings.model_fields_set]
    details = (*(_line(settings, field) for field in known), *_others())
    others = len(Settings.model_fields) - len(known)
    count = f"{len(known)} from the environment, {others} by default"
    if sandbox and any(name.startswith("twilio_") for name in settings.model_fields_set):
        count += "; TWILIO_* count for nothing with --sandbox"
    return settings, [*findings, Finding(_CHECK, "ok", count, details=details)]


def secrets_in(settings: Settings) -> tuple[str, ...]:
    """What must not be shown, in each form that it may turn up in."""
    values = (getattr(settings, field) for field in Settings.model_fields)
    hidden = [v.get_secret_value() for v in values if isinstance(v, SecretStr)]
    whole = [*(_password(secret) for secret in hidden), *(s for h in hidden for s in h.split())]
    url = settings.calls_mcp_state_url.get_secret_value()
    return tuple(form for s in whole if s and s != url for form in spellings(s))


def _oddities() -> Iterator[Finding]:
    for name, value in sorted(os.environ.items()):
        if name.lower() not in Settings.model_fields:
            continue
        if not value:
            message = f"{name} is set to nothing, which counts as not set"
            yield Finding(_CHECK, "note", message, f"give it a value, or: unset {name}")
        elif _UNEXPANDED.search(value):
            message = f"{name} has a placeholder in it that nobody has replaced"
            yield Finding(_CHECK, "problem", message, f"export {name}=…, or put it into the client")


def _fault(fault: str) -> Finding:
    name = fault.partition(":")[0]
    if "no such setting" in fault:
        return Finding(_CHECK, "fatal", fault, f"rename it, or: unset {name}")
    missing = "is needed" in fault
    return Finding(
        _CHECK, "fatal", fault, f"export {name}=…{'' if missing else f', or unset {name}'}"
    )


def _line(settings: Settings, field: str) -> str:
    return f"{field.upper()} = {_shown(getattr(settings, field))}  (environment)"


def _shown(value: object) -> str:
    if not isinstance(value, SecretStr):
        return _HEX.sub(MASK, one_line(str(value)))
    secret = value.get_secret_value()
    return secret if secret == "memory:" else _open(secret)  # noqa: S105


def _open(secret: str) -> str:
    """A URL without what may be a password; all else is masked whole."""
    if "://" not in secret:
        return MASK
    url = urlsplit(secret)
    place = url.netloc.rpartition("@")[2]
    return f"{url.scheme}://{f'{MASK}@' if '@' in url.netloc else ''}{place}{url.path}"


def _password(secret: str) -> str:
    return (urlsplit(secret).password or "") if "://" in secret else ""


def _others() -> Iterator[str]:
    """What is not ours, but counts."""
    for name in _OTHERS:
        for spelling in (name, name.lower()):
            if value := os.environ.get(spelling):
                shown = _open(value) if "://" in value else one_line(value)
                yield f"{spelling} = {shown}  (environment)"
