"""What a person sees of the emulator: one page that loads nothing and renews itself."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from calls_mcp.emulator.call import Call
from calls_mcp.emulator.faults import Armed
from calls_mcp.emulator.journal import Entry
from calls_mcp.emulator.outbox import Callback
from calls_mcp.emulator.resource import price, rfc2822

LATEST = 50
RENEWED_EVERY = 2  # seconds
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)

STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 2rem; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: start; font-weight: 600; margin: 1.5rem 0 .4rem; }
th, td { border-bottom: 1px solid #8885; padding: .25rem .6rem .25rem 0; text-align: start; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
"""

Cell = str | float | None


@dataclass(frozen=True)
class View:
    """What is to be seen.

    Attributes:
        now: The emulator's time, in seconds since the epoch.
        count: How many calls there are.
        calls: The latest ones, newest first.
        requests: The latest requests, newest first.
        callbacks: The latest callbacks, newest first.
        faults: What is still to go wrong.
    """

    now: float
    count: int
    calls: Sequence[Call]
    requests: Sequence[Entry]
    callbacks: Sequence[Callback]
    faults: Sequence[Armed]


def page(view: View) -> str:
    """The HTML of the page."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="{RENEWED_EVERY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Calls emulator</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Calls emulator</h1>
<p>{view.count} calls. It is {rfc2822(view.now)} here.</p>
{_calls(view.calls)}
{_callbacks(view.callbacks)}
{_requests(view.requests)}
{_faults(view.faults)}
</body>
</html>
"""


def _calls(calls: Iterable[Call]) -> str:
    head = (
        "Status",
        "From",
        "To",
        "Direction",
        "Created",
        "Seconds",
        "By",
        "Price",
        "Caller",
        "SID",
    )
    rows = (
        (
            call.status,
            call.from_,
            call.to,
            call.direction,
            rfc2822(call.created),
            call.duration,
            call.answered_by,
            price(call),
            call.caller_name,
            call.sid,
        )
        for call in calls
    )
    return _table("Latest calls", head, rows)


def _callbacks(callbacks: Iterable[Callback]) -> str:
    head = ("Event", "Call", "Where", "Attempts", "Outcome")
    rows = (
        (each.status, each.sid, f"{each.method} {each.url}", each.attempts, each.outcome)
        for each in callbacks
    )
    return _table("Latest callbacks", head, rows)


def _requests(entries: Iterable[Entry]) -> str:
    rows = (
        (entry.status or "no answer", entry.method, entry.path, entry.query) for entry in entries
    )
    return _table("Latest requests", ("Answer", "Method", "Path", "Query"), rows)


def _faults(faults: Iterable[Armed]) -> str:
    rows = (
        (armed.fault.kind, armed.fault.method or "any", armed.left, armed.fault.probability)
        for armed in faults
    )
    return _table("Faults to come", ("Kind", "Method", "Requests", "Probability"), rows)


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    body = "\n".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    if not body:
        return ""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return f"""<table>
<caption>{escape(caption)}</caption>
<thead><tr>{names}</tr></thead>
<tbody>
{body}
</tbody>
</table>"""


def _cells(row: Iterable[Cell]) -> str:
    return "".join(f"<td>{'' if cell is None else escape(str(cell))}</td>" for cell in row)
