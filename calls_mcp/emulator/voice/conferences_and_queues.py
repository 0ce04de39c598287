"""The conferences and queues in which calls meet. A call is known by its SID."""

from collections import defaultdict, deque
from collections.abc import Iterator

from calls_mcp.emulator.voice.twiml_elements import Element

LARGEST_CONFERENCE = 250  # participants


class Conferences:
    """The conferences, by name."""

    def __init__(self) -> None:
        self._participants: defaultdict[str, dict[str, bool]] = defaultdict(dict)

    def join(self, sid: str, conference: Element) -> int:
        """Join a conference and return the number of its participants, 0 if it is full."""
        people = self._participants[conference.text]
        if len(people) >= conference.number("maxParticipants", LARGEST_CONFERENCE):
            return 0
        people[sid] = conference.flag("endConferenceOnExit")
        return len(people)

    def leave(self, sid: str) -> list[str]:
        """Leave the conference, and return the calls for which it ends."""
        for name, people in self._participants.items():
            if sid in people:
                ends_conference = people.pop(sid)
                if not people:
                    del self._participants[name]
                return [*people] if ends_conference else []
        return []


class Queues:
    """The queues, by name, and the calls that wait to serve one."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, deque[str]] = defaultdict(deque)
        self._servers: defaultdict[str, deque[str]] = defaultdict(deque)

    def join(self, sid: str, queue: str, limit: int) -> int:
        """Join the end of a queue and return the position, 0 if the queue is full."""
        waiting = self._waiting[queue]
        if len(waiting) >= limit:
            return 0
        waiting.append(sid)
        return len(waiting)

    def position(self, sid: str, queue: str) -> tuple[int, int]:
        """Return the position of a call in a queue, from 1, and the length of the queue."""
        waiting = self._waiting[queue]
        return waiting.index(sid) + 1 if sid in waiting else 0, len(waiting)

    def serve(self, sid: str, queue: str) -> None:
        """Wait for the first call of a queue."""
        self._servers[queue].append(sid)

    def leave(self, sid: str) -> None:
        """Leave the queue."""
        for lines in (self._waiting, self._servers):
            for queue, line in [*lines.items()]:
                if sid in line:
                    line.remove(sid)
                if not line:
                    del lines[queue]

    def matches(self, queue: str) -> Iterator[tuple[str, str]]:
        """Remove and yield each first call together with the one that serves it."""
        waiting, servers = self._waiting[queue], self._servers[queue]
        while waiting and servers:
            yield waiting.popleft(), servers.popleft()
