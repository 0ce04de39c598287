"""A store in Redis, shared by replicas anywhere.

Every change is one script, so that it happens as a whole. An answer that gets lost on the way may
make the library send a script again; each of them then does nothing more, and says the same.
Redis must be 6.2 or newer, and must not be set to evict keys that have not expired.
"""

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from calls_mcp.errors import ConfigurationError
from calls_mcp.outcome import Outcome
from calls_mcp.storage.unavailable import StoreUnavailable, Unrecorded, reaching
from calls_mcp.store.record import Fate, Keeper, Keeping, Pending, pack, unpack
from calls_mcp.store.redis_docket import RedisDocket

if TYPE_CHECKING:
    from calls_mcp.store.counters import Counters

PREFIX = "calls-mcp"
_CLEAR = re.compile(r"rediss?://([^\s/?#@[\]]*@)?[^\s@]*")
FAILURES = (RedisError, OSError)

_PUT = """
local record, unused = KEYS[1], KEYS[2]
local identifier, pending, lasts, each, prefix = unpack(ARGV)
if redis.call('exists', record) == 1 then return end
redis.call('hset', record, 'pending', pending, 'unused', unused)
redis.call('pexpire', record, lasts)
redis.call('lpush', unused, identifier)
redis.call('pexpire', unused, lasts)
while redis.call('llen', unused) > tonumber(each) do
  redis.call('del', prefix .. redis.call('rpop', unused))
end
"""

_CLAIM = """
local record = KEYS[1]
local identifier, claimant, now = unpack(ARGV)
if redis.call('exists', record) == 0 then return 0 end
if redis.call('hsetnx', record, 'claimant', claimant) == 1 then
  redis.call('hset', record, 'claimed_at', now)
  redis.call('lrem', redis.call('hget', record, 'unused'), 1, identifier)
end
return redis.call('hget', record, 'claimant') == claimant and 1 or 0
"""

_SETTLE = """
local record, outcome = KEYS[1], KEYS[2]
if redis.call('exists', record) == 0 or redis.call('exists', outcome) == 1 then return end
redis.call('rpush', outcome, ARGV[1])
redis.call('pexpire', outcome, redis.call('pttl', record))
"""


class Client(Protocol):
    """What is used of `redis.asyncio.Redis`, whose own annotations leave its answers unknown."""

    connection_pool: object

    def execute_command(self, *command: str | float) -> Awaitable[Any]:
        """Run one command."""
        ...

    def register_script(self, script: str) -> Callable[..., Awaitable[Any]]:
        """A script, to be called with keys and arguments."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class Server:
    """The Redis server, through one pool of connections."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def ask(
        self, *command: str | float, meaning: type[StoreUnavailable] = StoreUnavailable
    ) -> Any:  # noqa: ANN401
        """The answer to a command; a failure has this `meaning`."""
        with reaching(FAILURES, meaning):
            return await self.client.execute_command(*command)

    async def run(
        self,
        script: str,
        keys: Sequence[str],
        arguments: Sequence[str | float],
        meaning: type[StoreUnavailable] = StoreUnavailable,
    ) -> Any:  # noqa: ANN401
        """What a script returns; a failure has this `meaning`."""
        with reaching(FAILURES, meaning):
            return await self.client.register_script(script)(keys, arguments)


def open_redis(url: str, keeping: Keeping) -> "RedisStore":
    """The store in the Redis at `url`, which is asked for nothing yet.

    Raises:
        ConfigurationError: The URL is malformed.
    """
    try:
        _require_clear(url)
        client = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            decode_responses=True,
            socket_connect_timeout=keeping.busy,
            socket_timeout=keeping.busy,
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError:
        # Its text may repeat the URL, which may hold a password.
        raise ConfigurationError("CALLS_MCP_STATE_URL is not a well-formed redis:// URL.") from None
    return RedisStore(Server(cast("Client", client)), keeping)


def _require_clear(url: str) -> None:
    """Do nothing if a password in `url` can't be taken for a host, which failures name.

    Raises:
        ValueError: Signs in it are not percent-encoded.
    """
    if not _CLEAR.fullmatch(url):
        raise ValueError(url)


class RedisStore(Keeper):
    """A `Store` in Redis."""

    kind: Literal["redis"] = "redis"

    def __init__(self, server: Server, keeping: Keeping) -> None:
        super().__init__(keeping)
        self._server = server
        self.docket = RedisDocket(server, keeping)

    async def put(self, identifier: str, pending: Pending) -> None:
        """Keep a new question until it may be forgotten."""
        lasts = self._keeping.forget_at(pending) - self._keeping.clock()
        await self._server.run(
            _PUT,
            [_record(identifier), _unused(pending.owner)],
            [identifier, pack(pending), max(1, int(1000 * lasts)), self._keeping.each, _record("")],
        )

    async def get(self, identifier: str) -> Pending | None:
        """The question of this identifier, if it is still kept."""
        text = await self._server.ask("HGET", _record(identifier), "pending")
        return unpack(text) if text else None

    async def claim(self, identifier: str) -> bool:
        """Take the one right to act on it."""
        arguments = [identifier, secrets.token_urlsafe(9), self._keeping.clock()]
        return await self._server.run(_CLAIM, [_record(identifier)], arguments) == 1

    async def settle(self, identifier: str, outcome: Outcome) -> None:
        """Record what became of it, and wake those who wait."""
        keys = [_record(identifier), _outcome(identifier)]
        await self._server.run(_SETTLE, keys, [outcome.to_json()], Unrecorded)

    async def ping(self) -> None:
        """Return if the server answers, and lets itself be written to."""
        await self._server.ask("SET", f"{PREFIX}:ping", "", "PX", 1)

    async def aclose(self) -> None:
        """Close the connections."""
        with reaching(FAILURES, StoreUnavailable):
            await self._server.client.aclose()

    def _make_counters(self) -> "Counters":
        from calls_mcp.store.redis_counters import RedisCounters  # noqa: PLC0415

        return RedisCounters(self._server, self._keeping.clock)

    async def fate(self, identifier: str) -> Fate | None:
        """What is known of it now."""
        record = await self._server.ask("HMGET", _record(identifier), "pending", "claimed_at")
        pending, claimed_at = cast("list[str | None]", record)
        if pending is None:
            return None
        outcome = await self._server.ask("LINDEX", _outcome(identifier), 0)
        return Fate(
            claimed_at=float(claimed_at) if claimed_at else None,
            outcome=Outcome.model_validate_json(outcome) if outcome else None,
        )

    async def _settled(self, identifier: str) -> Outcome:
        # Moving the one element of a list to where it is waits for it, and leaves it for the rest.
        # It has to return before the connection counts as broken for being silent.
        settled, block = _outcome(identifier), self._keeping.busy / 5
        stay = ("BLMOVE", settled, settled, "LEFT", "LEFT", block)
        while True:
            if outcome := await self._server.ask(*stay):
                return Outcome.model_validate_json(outcome)


def _record(identifier: str) -> str:
    return f"{PREFIX}:confirmation:{identifier}"


def _outcome(identifier: str) -> str:
    return f"{PREFIX}:outcome:{identifier}"


def _unused(principal: str) -> str:
    return f"{PREFIX}:unused:{hashlib.sha256(principal.encode()).hexdigest()}"
