"""Render templates and read submitted forms."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import anyio
from jinja2 import ChainableUndefined, Environment, FileSystemLoader, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse

from calls_mcp.console.browser_sessions import session_of
from calls_mcp.console.reader_time import local_time, zone_of
from calls_mcp.observability.redaction import escape_invisible
from calls_mcp.tools.humanize import country, formatted, iso_time, plain

_MINUTE, _HOUR = 60, 3600
_NUMBER = re.compile(r"(\+[0-9][0-9 ]{5,18}[0-9]|\b[0-9]+ (?:h|min|s)\b)")
_MAX_SID = 16  # characters
_MAX_FORM = 16_384  # bytes
_MAX_FIELDS = 20
_FORM_TIMEOUT = 10  # seconds
_NO_CODE = (
    "The decision code is missing or wrong, so nothing was done. It was shown when you signed in. "
    "To get a new one, sign in again."
)


def page(
    request: Request, template: str, values: Mapping[str, object], status: int = 200
) -> HTMLResponse:
    """Render a template with `values`, the session, if there is one, and the reader's time zone."""
    text = _environment.get_template(template).render(
        values,
        session=session_of(request),
        path=request.url.path,
        zone=zone_of(request),
        pending=getattr(request.state, "pending", 0),
    )
    return HTMLResponse(text, status)


async def read_form(request: Request) -> Mapping[str, str]:
    """Return the fields of a form. The sender is not checked.

    Raises:
        HTTPException: The form is too large, too slow or malformed.
    """
    body = bytearray()
    try:
        with anyio.fail_after(_FORM_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_FORM:
                    raise HTTPException(413, "The form is too large. Send at most 16 KiB.")
    except TimeoutError:
        raise HTTPException(408, "The form took too long to arrive. Send it again.") from None
    try:
        text = body.decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        raise HTTPException(400, "The request body is not a form of this console.") from None


async def read_decision(request: Request) -> Mapping[str, str]:
    """Return the fields of a form that contains the session's decision code.

    Browsers send a cookie to every port of its host, so the cookie alone can't decide anything.
    The code is known only to the origin that got it when the operator signed in.

    Raises:
        HTTPException: The code is missing or wrong, or `read_form` refuses the form.
    """
    form = await read_form(request)
    if not session_of(request).has_code(form.get("code", "")):
        raise HTTPException(403, _NO_CODE)
    return form


def _duration(seconds: float) -> str:
    """Return a duration in its main unit. `console.js` does the same when it updates times."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 2 * _MINUTE else " ".join(length_of_time(whole).split()[:2])


def _epoch(time: str) -> float:
    """Return a time of a call in epoch seconds."""
    return datetime.fromisoformat(time).timestamp()


def length_of_time(seconds: float) -> str:
    """Return an exact duration, such as 5 min 47 s."""
    hours, rest = divmod(round(seconds), _HOUR)
    parts = ((hours, "h"), (rest // _MINUTE, "min"), (rest % _MINUTE, "s"))
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount) or "0 s"


@pass_context
def _time(context: Context, time: object, *, style: str = "datetime") -> Markup:
    """Return a time, in epoch seconds or ISO 8601, as an element that the script makes local.

    `style` is `datetime`, `date` or `time`.
    """
    text = iso_time(time) if isinstance(time, int | float) else f"{time or ''}"
    utc, zone = text[:19].replace("T", " "), context["zone"]
    local = local_time(text, zone)
    shown = f"{local:%Y-%m-%d %H:%M:%S}" if local else utc
    name = " UTC" if zone.key == "UTC" else ""
    shown = {"datetime": f"{shown}{name}", "date": shown[:10] + name, "time": shown[11:]}[style]
    if not text:
        return Markup()
    element = Markup('<time datetime="{}" data-local="{}" title="{} UTC">{}</time>')
    return element.format(text, style, utc, shown)


@pass_context
def _day(context: Context, time: str) -> str:
    """Return the day of a time, in ISO 8601, in the reader's time zone."""
    local = local_time(time, context["zone"])
    return f"{local.date()}" if local else time[:10]


def _phone_number(address: str | None) -> str:
    """Return a number as people write it; leave other texts alone."""
    return formatted(address or "")


def _country(address: str | None) -> str:
    return country(address or "")


def _unbroken(text: str) -> Markup:
    """Return a text whose phone numbers and durations are never split across lines."""
    parts = _NUMBER.split(escape_invisible(text))
    texts, numbers = parts[::2], [*parts[1::2], ""]
    number = Markup('<span class="nowrap">{}</span>')
    return Markup().join(
        escape(before) + (number.format(each) if each else "")
        for before, each in zip(texts, numbers, strict=True)
    )


def _short_sid(sid: object) -> str:
    text = f"{sid}"
    return text if len(text) <= _MAX_SID else f"{text[:8]}…{text[-4:]}"


def words(term: str) -> str:
    """Return a term of the API in plain words, such as `No answer` for `no-answer`."""
    words = plain(term).replace("_", " ")
    return words[:1].upper() + words[1:]


def _argument(value: object) -> str:
    """Return the value of an argument as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _finalize(value: object) -> object:
    """Make invisible characters of a text visible, unless it is markup already."""
    return escape_invisible(value) if type(value) is str else "" if value is None else value


_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=ChainableUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
    finalize=_finalize,
)
_FILTERS: dict[str, Callable[..., Any]] = {  # Jinja's own type knows only the built-in ones
    "argument": _argument,
    "country": _country,
    "day": _day,
    "duration": _duration,
    "epoch": _epoch,
    "length_of_time": length_of_time,
    "phone_number": _phone_number,
    "short_sid": _short_sid,
    "time": _time,
    "unbroken": _unbroken,
    "words": words,
}
_environment.filters.update(_FILTERS)
