"""The tables, and the statements that let time pass in them.

A call's status changes in SQL, so what follows from a change is SQL, too: triggers put the
events that a call's owner wants to hear of into `callbacks`, in the same transaction.
"""

from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter

from calls_mcp.emulator.call import LIVE, Call

VERSION = 2
"""Grows whenever a file of before can't be read any more."""

PRICE_PER_MINUTE = 0.013
PRICE_DELAY = 5

FIELDS = tuple(field.name for field in fields(Call))
COLUMNS = ", ".join(f'"{name}"' for name in FIELDS)
ROW: Callable[[Call], tuple[object, ...]] = attrgetter(*FIELDS)
MARKS = ", ".join(f"?{position}" for position, _ in enumerate(FIELDS, start=1))
CREATED = f"?{FIELDS.index('created') + 1}"
SID = f"?{len(FIELDS) + 1}"

_LIVE = ", ".join(f"'{status}'" for status in sorted(LIVE))

CALLS = f"""CREATE TABLE IF NOT EXISTS calls (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    arrived, -- the latest `created` up to this record: it never falls from one to the next
    {COLUMNS}
)"""

CALLS_INDEXES = """CREATE UNIQUE INDEX IF NOT EXISTS calls_sid ON calls (sid);
CREATE INDEX IF NOT EXISTS calls_arrived ON calls (arrived, seq);
CREATE INDEX IF NOT EXISTS calls_to ON calls ("to", seq);
CREATE INDEX IF NOT EXISTS calls_from ON calls (from_, seq);
CREATE INDEX IF NOT EXISTS calls_status ON calls (status, seq);
CREATE INDEX IF NOT EXISTS calls_parent ON calls (parent_call_sid, seq);
CREATE INDEX IF NOT EXISTS calls_to_from ON calls ("to", from_, seq);
CREATE INDEX IF NOT EXISTS calls_to_status ON calls ("to", status, seq);
CREATE INDEX IF NOT EXISTS calls_from_status ON calls (from_, status, seq);
CREATE INDEX IF NOT EXISTS calls_lateness ON calls (arrived - created);
CREATE INDEX IF NOT EXISTS calls_wait ON calls (ring_at - created);
CREATE INDEX IF NOT EXISTS calls_life ON calls (end_at - created);
CREATE INDEX IF NOT EXISTS calls_dialled ON calls (direction, ring_at);
CREATE INDEX IF NOT EXISTS calls_to_ring ON calls (ring_at) WHERE status = 'queued';
CREATE INDEX IF NOT EXISTS calls_to_answer ON calls (answer_at) WHERE status = 'ringing';
CREATE INDEX IF NOT EXISTS calls_to_end ON calls (end_at)
    WHERE status IN ('ringing', 'in-progress');
CREATE INDEX IF NOT EXISTS calls_to_price ON calls (price_at) WHERE price IS NULL;
CREATE INDEX IF NOT EXISTS calls_to_report ON calls (status) WHERE callback_url IS NOT NULL
"""

CALLBACKS = """CREATE TABLE IF NOT EXISTS callbacks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- of one that was under way at a reset, too
    sid, sequence, status, at, url, method, "to", from_, direction, answered_by, duration,
    due, -- when it is to be sent, NULL once it is settled
    held, -- until when, in real time, somebody is sending it
    attempts DEFAULT 0,
    outcome -- the status it was answered with, or why it was not sent
)"""

CALLBACKS_INDEXES = """CREATE UNIQUE INDEX IF NOT EXISTS callbacks_sid ON callbacks (sid, sequence);
CREATE INDEX IF NOT EXISTS callbacks_due ON callbacks (due) WHERE due IS NOT NULL
"""


def _told(event: str, status: str, at: str, condition: str = "true") -> str:
    return f"""INSERT INTO callbacks
        (sid, sequence, status, at, url, method, "to", from_, direction, answered_by,
        duration, due)
    SELECT new.sid, (SELECT count(*) FROM callbacks WHERE sid = new.sid), {status}, {at},
        new.callback_url, new.callback_method, new."to", new.from_, new.direction,
        new.answered_by, new.duration, {at}
    WHERE instr(new.callback_events, '{event}') AND {condition};"""  # noqa: S608 - our own words


def _trigger(name: str, condition: str, *statements: str) -> str:
    return f"""CREATE TRIGGER IF NOT EXISTS {name} AFTER UPDATE OF status ON calls
    WHEN new.callback_url IS NOT NULL AND old.status IN ({_LIVE}) AND {condition}
    BEGIN {" ".join(statements)} END"""


TRIGGERS = (
    _trigger(
        "calls_dialled_event",
        "old.status = 'queued' AND new.status = 'ringing'",
        _told("initiated", "'initiated'", "new.ring_at"),
        # a call that fails at once never rings
        _told("ringing", "'ringing'", "new.ring_at", "new.end_at > new.ring_at"),
    ),
    _trigger(
        "calls_answered_event",
        "old.status <> 'in-progress' AND new.status = 'in-progress'",
        _told("answered", "'in-progress'", "new.answer_at"),
    ),
    _trigger(
        "calls_over_event",
        f"new.status NOT IN ({_LIVE})",
        _told("completed", "new.status", "new.ended"),
    ),
)

SCHEMA = (
    CALLS,
    *CALLS_INDEXES.split(";"),
    CALLBACKS,
    *CALLBACKS_INDEXES.split(";"),
    *TRIGGERS,
)

ADVANCE = (
    """UPDATE calls SET status = 'ringing', started = ring_at, updated = ring_at
    WHERE status = 'queued' AND ring_at <= :now""",
    """UPDATE calls SET status = 'in-progress', answered_by = detects, updated = answer_at
    WHERE status = 'ringing' AND answer_at <= :now""",
    """UPDATE calls SET status = end_as, ended = end_at, updated = end_at,
        duration = CAST(end_at - answer_at + 0.5 AS INTEGER),
        price_at = CASE WHEN answer_at IS NULL THEN NULL ELSE end_at + :delay END
    WHERE status IN ('ringing', 'in-progress') AND end_at <= :now""",
    """UPDATE calls SET updated = price_at,
        price = coalesce(fixed_price, -:rate * ((max(duration, 1) + 59) / 60))
    WHERE price IS NULL AND price_at <= :now""",
)

INSERT = f"""INSERT INTO calls ({COLUMNS}, arrived) VALUES ({MARKS},
    max({CREATED}, coalesce((SELECT arrived FROM calls ORDER BY seq DESC LIMIT 1), {CREATED})))"""  # noqa: S608 - our own column names
REPLACE = f"UPDATE calls SET ({COLUMNS}) = ({MARKS}) WHERE sid = {SID}"  # noqa: S608 - likewise
LATEST_DIALLED = """SELECT max(ring_at) FROM calls
    WHERE status = 'queued' AND direction = 'outbound-api'"""
EXPECTED = f"""SELECT EXISTS (SELECT 1 FROM callbacks WHERE due IS NOT NULL)
    OR EXISTS (SELECT 1 FROM calls WHERE callback_url IS NOT NULL AND status IN ({_LIVE}))"""  # noqa: S608 - our own words
