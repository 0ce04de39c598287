"""A store in Redis, shared by replicas on any machine.

Every change is one script, so it is atomic. Scripts are idempotent, because the library sends a
script again if a response is lost. Redis must be 6.2 or newer, and must not evict keys before they
expire.
"""

import hashlib
import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any, Protocol, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError

from calls_mcp.errors import ConfigurationError, OutcomeNotStored, StoreUnavailable
from calls_mcp.storage.interface import Storage
from calls_mcp.storage.rate_limits import Limit, LimitExceeded
from calls_mcp.storage.records import (
    DAY,
    WEEK,
    YEAR,
    ApprovalRequest,
    CallsTo,
    ConfirmationState,
    Durability,
    Frequency,
    OperatorDecision,
    PendingConfirmation,
    PendingPage,
    Position,
    StorageOptions,
    TalkTime,
    as_json,
    entries_of_calls,
    parse,
    parse_outcome,
    parse_request,
    parse_requests,
    pending_page,
)
from calls_mcp.tools.outcome import Outcome

# A password with special characters could be parsed as the host, which error messages show. The
# library silently ignores a database that is not a number.
_UNAMBIGUOUS_URL = re.compile(r"rediss?://([^\s/?#@[\]]*@)?[^\s/?#@]*(/[0-9]*/?)?(\?[^\s@]*)?")


_COMPARED_EVERY = 30  # seconds


def _key(*parts: str) -> str:
    return ":".join(("calls-mcp", *parts))


_ALL_REQUESTS = _key("requests")
_PENDING_KEYS = [_key("requests", name) for name in ("undecided", "expiring", "turns")]


class RedisClient(Protocol):
    """The used methods of `redis.asyncio.Redis`, whose own annotations have no result types."""

    def execute_command(self, *command: str | float) -> Awaitable[Any]:
        """Run one command."""
        ...

    def register_script(self, script: str) -> Callable[..., Awaitable[Any]]:
        """Return a script, to be called with keys and arguments."""
        ...

    async def aclose(self) -> None: ...


def open_redis(url: str, options: StorageOptions) -> "RedisStorage":
    """Return the store in the Redis at `url`, without connecting to it.

    Raises:
        ConfigurationError: The URL is malformed, or has an unknown or wrong option.
    """
    try:
        if not _UNAMBIGUOUS_URL.fullmatch(url):
            raise ValueError(url)  # noqa: TRY301  # as the library does
        client = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            decode_responses=True,
            socket_connect_timeout=options.timeout,
            socket_timeout=options.timeout,
            retry=Retry(NoBackoff(), 1),
        )
        client.connection_pool.make_connection()  # only this checks the options; it sends nothing
    except (ValueError, TypeError, AttributeError, RedisError):
        # Its text may repeat the URL, which may contain a password.
        raise ConfigurationError(
            "CALLS_MCP_STATE_URL is not a well-formed URL such as redis://HOST:PORT/NUMBER, or has "
            "an unknown or wrong option. Percent-encode special characters in the password."
        ) from None
    return RedisStorage(cast("RedisClient", client), options, _without_secrets(url))


def _without_secrets(url: str) -> str:
    """Return the scheme, host and path of an unambiguous URL."""
    scheme, _, rest = re.split("[?#]", url)[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


class RedisStorage(Storage):
    """A `Storage` in Redis."""

    kind = "redis"
    _failures = (RedisError, OSError)

    def __init__(self, client: RedisClient, options: StorageOptions, where: str) -> None:
        super().__init__(options)
        self.where = where
        self._client = client
        self._scripts: dict[str, Callable[..., Awaitable[Any]]] = {}
        self._ahead = 0.0
        """By how many seconds the clock of Redis is ahead of this machine's."""
        self._compare_at = math.inf if options.is_simulated else 0.0

    async def now(self) -> float:
        return await self._now(StoreUnavailable)

    async def _now(self, raises: type[StoreUnavailable]) -> float:
        """Return the time of Redis. The clocks are compared now and then, not at each call."""
        if time.monotonic() >= self._compare_at:
            before = self._options.clock()
            seconds, microseconds = await self._ask("TIME", raises=raises)
            middle = (before + self._options.clock()) / 2
            self._ahead = int(seconds) + int(microseconds) / 1e6 - middle
            self._compare_at = time.monotonic() + _COMPARED_EVERY
        return self._options.clock() + self._ahead

    async def add_confirmation(self, identifier: str, pending: PendingConfirmation) -> None:
        ttl = _milliseconds(pending.expires_at + self._options.retention - await self.now())
        keys = [_confirmation(identifier), _key("unused", _digest(pending.owner))]
        arguments = [identifier, as_json(pending), ttl, self._options.max_unused, _confirmation("")]
        await self._run("add_confirmation", keys, arguments)

    async def find_confirmation(self, identifier: str) -> PendingConfirmation | None:
        text = await self._ask("HGET", _confirmation(identifier), "pending")
        return parse(PendingConfirmation, text)

    async def _claim(self, identifier: str) -> bool:
        arguments = [identifier, secrets.token_urlsafe(9), await self.now()]
        return await self._run("claim_confirmation", [_confirmation(identifier)], arguments) == 1

    async def confirmation_state(self, identifier: str) -> ConfirmationState | None:
        found = await self._ask("HMGET", _confirmation(identifier), "pending", "claimed_at")
        pending, claimed_at = cast("list[str | None]", found)
        if pending is None:
            return None
        outcome = await self._ask("LINDEX", _outcome(identifier), 0)
        return ConfirmationState(
            claimed_at=float(claimed_at) if claimed_at else None,
            outcome=parse_outcome(outcome),
        )

    async def _record(self, identifier: str, outcome: Outcome) -> None:
        keys = [_confirmation(identifier), _outcome(identifier)]
        await self._run("record_outcome", keys, [outcome.to_json()], OutcomeNotStored)

    async def _outcome(self, identifier: str) -> Outcome:
        # BLMOVE from the list to itself waits for the element and keeps it for other waiters. It
        # must return before the socket times out.
        key, block = _outcome(identifier), self._options.timeout / 5
        while True:
            text = await self._ask("BLMOVE", key, key, "LEFT", "LEFT", block)
            if outcome := parse_outcome(text):
                return outcome

    async def add_request(self, request: ApprovalRequest, most: int) -> bool:
        now = await self.now()
        keep_until = max(request.usable_until, request.expires_at + self._options.retention)
        ttl = _milliseconds(keep_until - now)
        mine = _request(request.identifier), _key("pending", _digest(request.owner))
        times = [now, request.asked_at, request.expires_at, ttl]
        arguments = [request.identifier, as_json(request), *times, most]
        return (
            await self._run("add_request", [*mine, _ALL_REQUESTS, *_PENDING_KEYS], arguments) == 1
        )

    async def find_request(self, identifier: str) -> ApprovalRequest | None:
        request, decision = await self._ask("HMGET", _request(identifier), "request", "decision")
        return parse_request(request, decision)

    async def decide_request(
        self, identifier: str, decision: OperatorDecision
    ) -> OperatorDecision | None:
        arguments = [identifier, as_json(decision), await self.now()]
        made = await self._run("decide_request", [_request(identifier), *_PENDING_KEYS], arguments)
        return parse(OperatorDecision, made)

    async def newest_requests(self, most: int) -> Sequence[ApprovalRequest]:
        rows = await self._run("newest_requests", [_ALL_REQUESTS], [most, _request("")])
        return parse_requests(cast("list[tuple[str, str | None]]", rows))

    async def pending_requests(self, most: int, after: Position | None = None) -> PendingPage:
        start = [after.asked_at, after.identifier] if after else []
        count, _, *rows = await self._pending(most + 1, *start)
        found = [(text, identifier, float(at)) for text, identifier, at in rows]
        return pending_page(found, most, count)

    async def pending_version(self) -> str:
        count, turns = await self._pending(0)
        return f"{count}.{turns}"

    async def check_limits(self, limits: Sequence[Limit], times: int = 1) -> LimitExceeded | None:
        return await self._exceeded("hits", limits, [], times)

    async def _usage(self, kind: str, limit: Limit) -> int:
        after_now = f"({await self.now()}"
        return cast("int", await self._ask("ZCOUNT", _counter(kind, limit), after_now, "+inf"))

    async def _uncount(self, kind: str, limits: Sequence[Limit], entries: Sequence[str]) -> None:
        for limit in limits:
            await self._ask("ZREM", _counter(kind, limit), *entries, raises=OutcomeNotStored)

    async def _counted(self, kind: str, limit: Limit) -> Sequence[str]:
        key, after_now = _counter(kind, limit), f"({await self.now()}"
        return cast("Sequence[str]", await self._ask("ZRANGEBYSCORE", key, after_now, "+inf"))

    async def calls_to(
        self, numbers: Sequence[str], most: Frequency, entry: str = ""
    ) -> Sequence[CallsTo] | LimitExceeded:
        now = await self.now()
        calls = entries_of_calls([*map(_calls_to, numbers)], entry)
        times = [len(entries) for entries in calls.values()]
        entries = max(calls.values(), key=len, default=()) if entry else ()
        arguments = [now, YEAR, most.per_day, most.per_week, *times, *entries]
        rows = await self._run("calls_to", [*calls], arguments)
        reached, *found = cast("tuple[int, Any]", rows)
        if not reached:
            return [CallsTo(count, is_known == 1, last) for count, is_known, last in found]
        name, _, seconds = most.windows[reached - 1]
        return LimitExceeded(name, float(found[0]) - WEEK + seconds - now)

    async def remove_call(self, numbers: Sequence[str], entry: str) -> None:
        for key, entries in entries_of_calls([*map(_calls_to, numbers)], entry).items():
            await self._ask("ZREM", key, *entries, raises=OutcomeNotStored)

    async def spend(self, budgets: Sequence[Limit], talk: TalkTime) -> Limit | None:
        amounts = [budget.amount for budget in budgets]
        arguments = [await self.now(), talk.entry, _packed(talk), 1, DAY, talk.least, *amounts]
        full = await self._run("talk_time", [*map(_talk, budgets)], arguments)
        return budgets[cast("int", full) - 1] if full else None

    async def correct(self, budgets: Sequence[Limit], talk: TalkTime) -> None:
        arguments = [await self._now(OutcomeNotStored), talk.entry, _packed(talk), 0, DAY, 0]
        await self._run("talk_time", [*map(_talk, budgets)], arguments, OutcomeNotStored)

    async def spent(self, budget: Limit) -> Sequence[TalkTime]:
        now, rows = await self.now(), await self._ask("HGETALL", _talk(budget))
        found = [_unpacked(*row) for row in cast("dict[str, str]", rows).items()]
        current = (each for each in found if each.since + DAY > now)
        return sorted(current, key=lambda each: each.since)

    async def delete_if_equal(self, key: str, value: str) -> bool:
        arguments = [await self._now(OutcomeNotStored), value]
        return await self._run("delete_if_equal", [_value(key)], arguments, OutcomeNotStored) == 1

    async def get_with_ttl(self, key: str) -> tuple[str, float] | None:
        value, until = await self._ask("HMGET", _value(key), "text", "until")
        ttl = float(until or 0) - await self.now()
        return (value, ttl) if ttl > 0 else None

    async def durability(self) -> Durability | None:
        try:
            sections = [
                await self._ask("INFO", name) for name in ("persistence", "memory", "server")
            ]
        except StoreUnavailable as unavailable:
            if isinstance(unavailable.__cause__, NoPermissionError):
                return None
            raise
        found = {name: str(value) for section in sections for name, value in section.items()}
        if "run_id" not in found:
            return None
        is_logged = found.get("aof_enabled", "1") == "1"
        return Durability(is_logged, found.get("maxmemory_policy", ""))

    async def ping(self) -> None:
        await self._ask("SET", _key("ping"), "", "PX", 1)

    async def aclose(self) -> None:
        with self._raising(StoreUnavailable):
            await self._client.aclose()

    async def _is_set(self, key: str, ttl: float, value: str) -> bool:
        now, writer = await self.now(), secrets.token_urlsafe(9)
        arguments = [now, writer, value, now + ttl, _milliseconds(ttl)]
        return await self._run("set_if_absent", [_value(key)], arguments) == 1

    async def _count(
        self, kind: str, limits: Sequence[Limit], entries: Sequence[str]
    ) -> LimitExceeded | None:
        return await self._exceeded(kind, limits, entries, len(entries))

    async def _exceeded(
        self, kind: str, limits: Sequence[Limit], entries: Sequence[str], needed: int
    ) -> LimitExceeded | None:
        """Count `entries`, or return a limit that is too low for `needed` of them."""
        if not limits:
            return None
        now = await self.now()
        terms = [n for each in limits for n in (each.amount, each.seconds, now + each.seconds)]
        keys = [_counter(kind, limit) for limit in limits]
        found = await self._run("count", keys, [now, needed, len(entries), *entries, *terms])
        if not found:
            return None
        number, until = cast("tuple[int, str]", found)
        return LimitExceeded(limits[number - 1].name, max(0.0, float(until) - now))

    async def _pending(self, most: int, *start: str | float) -> list[Any]:
        arguments = [await self.now(), most, _request(""), *start]
        return cast("list[Any]", await self._run("pending_requests", _PENDING_KEYS, arguments))

    async def _ask(
        self, *command: str | float, raises: type[StoreUnavailable] = StoreUnavailable
    ) -> Any:  # noqa: ANN401
        """Return the response to a command; raise `raises` if it fails."""
        with self._raising(raises):
            return await self._client.execute_command(*command)

    async def _run(
        self,
        name: str,
        keys: Sequence[str],
        arguments: Sequence[str | float],
        raises: type[StoreUnavailable] = StoreUnavailable,
    ) -> Any:  # noqa: ANN401
        """Return what a script returns; raise `raises` if it fails."""
        with self._raising(raises):
            return await self._script(name)(keys, arguments)

    def _script(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name not in self._scripts:
            self._scripts[name] = self._client.register_script(_text("server_run_id") + _text(name))
        return self._scripts[name]


def _text(script: str) -> str:
    return (files("calls_mcp.storage") / "scripts" / f"{script}.lua").read_text("utf-8")


def _confirmation(identifier: str) -> str:
    return _key("confirmation", identifier)


def _outcome(identifier: str) -> str:
    return _key("outcome", identifier)


def _request(identifier: str) -> str:
    return _key("request", identifier)


# Earlier versions have the same keys, so that both can run during an upgrade.


def _value(key: str) -> str:
    return _key(f"noted/{key}")


def _counter(kind: str, limit: Limit) -> str:
    if kind == "reserved":
        return _key(f"entered/{limit.counter}")
    return _key(kind, limit.counter)


def _calls_to(number: str) -> str:
    return _key("calls_to", number)


def _talk(budget: Limit) -> str:
    return _key("talk", budget.counter)


def _packed(talk: TalkTime) -> str:
    return f"{talk.since!r} {talk.least!r} {talk.most!r} {talk.times} {talk.call}"


def _unpacked(entry: str, value: str) -> TalkTime:
    since, least, most, times, call = value.split(" ", 4)
    return TalkTime(entry, float(since), float(least), float(most), int(times), call)


def _milliseconds(seconds: float) -> int:
    """Return a time to live that Redis accepts."""
    return max(1, int(1000 * seconds))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
