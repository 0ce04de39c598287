"""The model: what was approved, what was reported, and what the emulator has done.

For each marker, `done ≤ acted ≤ done + unknown`: nothing is placed twice, nothing goes unreported,
and nothing is reported that did not happen. A marker is a URL that only one change has; a
deletion has none and is identified by its SID.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from calls_mcp.emulator import Emulator

Told = Mapping[str, Any]
"""The structured content of a result."""


class Violation(AssertionError):
    """The server broke an invariant."""


def require(holds: object, broken: str, *details: object) -> None:
    """Raise a Violation unless it `holds`."""
    if not holds:
        raise Violation(": ".join([broken, *map(str, details)]))


@dataclass(frozen=True)
class Change:
    """A change that the user wants."""

    action: str
    tool: str
    marker: str
    arguments: Mapping[str, object]

    @property
    def sid(self) -> str:
        """The call it changes; empty for a new one."""
        return str(self.arguments.get("sid", ""))


@dataclass(eq=False)
class Attempt:
    """An attempt to make a change.

    `is_approved` says whether it may have been made. `told` is the first result, None
    until there is one.
    """

    change: Change
    is_approved: bool = False
    told: Told | None = None

    @property
    def is_done(self) -> bool:
        return self.told is not None and self.told["outcome"] == "done"

    @property
    def is_recovered(self) -> bool:
        return self.is_done and (self.told or {}).get("recovered") is True

    @property
    def is_unknown(self) -> bool:
        """The result said so, or the change was approved and the client has disconnected."""
        return self.is_approved if self.told is None else kind_of(self.told) == "outcome_unknown"


@dataclass
class Model:
    """Compares results with the records of the emulator."""

    emulator: Emulator
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    acted: Counter[str] = field(default_factory=Counter[str])
    placed: dict[str, str] = field(default_factory=dict[str, str])
    _seen: int = 0

    def open(self, change: Change) -> Attempt:
        """Note an attempt."""
        attempt = Attempt(change)
        self.attempts.append(attempt)
        return attempt

    def note(self, attempt: Attempt, told: Told) -> None:
        """Note the first result of an attempt."""
        attempt.told = told
        self.look()
        if told["outcome"] == "done":
            self._check_done(attempt, told)

    def look(self) -> None:
        """Read what the emulator has recorded since the last time."""
        entries = self.emulator.requests
        for entry in entries[self._seen :]:
            if entry.status // 100 == 2:
                self.acted.update(markers(entry.method, entry.path, entry.form))
        self._seen = len(entries)
        for call in self.emulator.calls.all():
            if call.direction == "outbound-api":  # a redirection will change the URL
                self.placed.setdefault(call.sid, call.url or "")

    def check(self) -> None:
        """Check the inequality for every marker.

        Raises:
            Violation: One does not hold.
        """
        self.look()
        attempts: dict[str, list[Attempt]] = {}
        for attempt in self.attempts:
            attempts.setdefault(attempt.change.marker, []).append(attempt)
        for marker, count in self.acted.items():
            require(marker in attempts, "nobody asked for this", marker, count)
        for marker, made in attempts.items():
            _check_sums(made, self.acted[marker])

    def _check_done(self, attempt: Attempt, told: Told) -> None:
        change, calls = attempt.change, self.emulator.calls
        if change.tool == "create_call":
            sid = told["call"]["sid"]
            require(self.placed.get(sid) == change.marker, "told another call", change, told)
        elif change.tool == "delete_call":
            require(told["deleted"] == change.sid, "told another deletion", change, told)
            require(calls.get(change.sid) is None, "told a deletion that was none", told)
        else:
            require(told["call"]["sid"] == change.sid, "told another call", change, told)
        if change.action == "hang_up" and attempt.is_recovered:
            call = calls.get(change.sid)
            require(call is None or not call.live, "told an end that was none", told)


def kind_of(told: Told | None) -> str:
    """Return the outcome of a result, or the kind of its error."""
    if told is None:
        return "unheard"
    return told["error"]["kind"] if "error" in told else told["outcome"]


def _check_sums(attempts: list[Attempt], acted: int) -> None:
    done = [attempt for attempt in attempts if attempt.is_done]
    # A call has ended or is deleted, no matter which change did it.
    sure = [a for a in done if not (a.is_recovered and a.change.action in ("hang_up", "delete"))]
    unknown = [attempt for attempt in attempts if attempt.is_unknown]
    story = "\n".join(f"  {a.change} was told {a.told}" for a in attempts)
    require(len(sure) <= acted, f"told {len(sure)} times, but acted on only {acted}", f"\n{story}")
    most = len(done) + len(unknown)
    require(acted <= most, f"acted on {acted} times, but told or unknown only {most}", f"\n{story}")


def markers(method: str, path: str, form: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The marker of a request; a read has none."""
    fields = dict(form)
    if method == "POST":
        yield fields.get("Url") or fields.get("StatusCallback") or "unmarked"
    if method == "DELETE":
        yield deletion(urlsplit(path).path.rpartition("/")[2].removesuffix(".json"))


def deletion(sid: str) -> str:
    """The marker of a call's deletion."""
    return f"delete {sid}"
