"""Templates → pages. What strangers wrote is shown as text, with what can't be seen in it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse

from calls_mcp.console.browser_sessions import session_of
from calls_mcp.observability.redaction import escape_invisible

_TEMPLATES = Path(__file__).parent / "templates"
_DEEDS = {
    "place": "Place a call",
    "redirect": "Redirect a live call",
    "hang_up": "Hang up",
    "modify": "Change a live call",
    "delete": "Delete the record of a call",
}
_LONGEST_SID = 16  # characters
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def _span(seconds: float) -> str:
    """A length of time as people say it, to the unit that matters."""
    whole = max(0, round(seconds))
    for unit, length in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if whole >= 2 * length or (whole >= length and unit != "min"):
            return f"{whole // length} {unit}"
    return f"{whole} s"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _clock(time: object) -> str:
    """An ISO 8601 time to the second, as people read it."""
    return f"{time or ''}"[:19].replace("T", " ")


def _short(sid: object) -> str:
    """Enough of a SID to tell it from others."""
    text = f"{sid}"
    return text if len(text) <= _LONGEST_SID else f"{text[:8]}…{text[-4:]}"


def _deed(action: str) -> str:
    """What a change does, in a few words."""
    return _DEEDS.get(action, action.replace("_", " ").capitalize())


def _finalized(value: object) -> object:
    """What comes out of a template: text, unless it is markup already, shows what it hides."""
    return escape_invisible(value) if type(value) is str else "" if value is None else value


_environment = Environment(
    loader=FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=ChainableUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
    finalize=_finalized,
)
_environment.filters.update(
    {"clock": _clock, "deed": _deed, "short": _short, "span": _span, "time": _time}
)


def render(template: str, **values: object) -> str:
    """A template filled in."""
    return _environment.get_template(template).render(values)


def page(
    request: Request, template: str, values: Mapping[str, object], status: int = 200
) -> HTMLResponse:
    """A page for whoever has come in."""
    return HTMLResponse(
        render(template, session=session_of(request), path=request.url.path, **values),
        status_code=status,
    )
