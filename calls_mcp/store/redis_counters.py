"""Counters in the store's Redis, by the same clock as everything else."""

import secrets
from collections.abc import Callable, Sequence
from typing import Any, cast

from limits.aio.storage import RedisStorage

from calls_mcp.storage.unavailable import Unrecorded
from calls_mcp.store.counters import Counters, Full, Limit, Share, place
from calls_mcp.store.redis import PREFIX, Server

# A window of `limits` is a list of times, the newest first (see its acquire_moving_window.lua).
_ACQUIRE_ALL = """
local now = tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  local limit, seconds, amount = tonumber(ARGV[3*i-1]), tonumber(ARGV[3*i]), tonumber(ARGV[3*i+1])
  if amount > limit then return i end
  local in_the_way = redis.call('lindex', key, limit - amount)
  if in_the_way and tonumber(in_the_way) > now - seconds then return i end
end
for i, key in ipairs(KEYS) do
  local limit, seconds, amount = tonumber(ARGV[3*i-1]), tonumber(ARGV[3*i]), tonumber(ARGV[3*i+1])
  for _ = 1, amount do redis.call('lpush', key, ARGV[1]) end
  redis.call('ltrim', key, 0, limit - 1)
  redis.call('expire', key, seconds)
end
return 0
"""

_ENTER = """
local now, entry = ARGV[1], ARGV[2]
for i, key in ipairs(KEYS) do
  local limit, until_ = tonumber(ARGV[3*i]), ARGV[3*i+2]
  redis.call('zremrangebyscore', key, '-inf', now)
  if redis.call('zcard', key) >= limit and not redis.call('zscore', key, entry) then
    return {i, redis.call('zrange', key, 0, 0, 'WITHSCORES')[2] or until_}
  end
end
for i, key in ipairs(KEYS) do
  local seconds, until_ = tonumber(ARGV[3*i+1]), ARGV[3*i+2]
  redis.call('zadd', key, until_, entry)
  redis.call('expire', key, math.max(seconds, redis.call('ttl', key)))
end
return false
"""

# The writer's name makes a repeat of the same request say the same.
_MARK = """
local now, writer, text, until_, lasts = unpack(ARGV)
local mark = redis.call('hmget', KEYS[1], 'until', 'writer')
local marked = mark[1] and tonumber(mark[1]) > tonumber(now)
if marked and mark[2] ~= writer then return 0 end
redis.call('hset', KEYS[1], 'writer', writer, 'text', text, 'until', until_)
redis.call('pexpire', KEYS[1], lasts)
return 1
"""

_UNMARK = """
local mark = redis.call('hmget', KEYS[1], 'until', 'text')
if mark[2] ~= ARGV[2] or tonumber(mark[1]) <= tonumber(ARGV[1]) then return 0 end
return redis.call('del', KEYS[1])
"""


class RedisWindows(RedisStorage):
    """The moving windows of `limits` in Redis, by a clock of ours."""

    def __init__(self, server: Server, clock: Callable[[], float]) -> None:
        pool = cast("Any", server.client.connection_pool)
        super().__init__(
            "async+redis://",
            implementation="redispy",
            key_prefix=f"{PREFIX}:window",
            connection_pool=pool,
        )
        self._server = server
        self._clock = clock

    async def acquire_all(self, shares: Sequence[Share]) -> int | None:
        """Take all shares, or none: then the index of one for which there is no room."""
        keys = [self.bridge.prefixed_key(share.key) for share in shares]
        wanted = [n for share in shares for n in (share.limit, share.seconds, share.amount)]
        full = await self._server.run(_ACQUIRE_ALL, keys, [self._clock(), *wanted])
        return full - 1 if full else None

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Take `amount` from a window of `expiry` seconds, if it has room."""
        return await self.acquire_all([Share(key, limit, expiry, amount)]) is None

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest was taken that still counts, and how many do."""
        now = self._clock()
        script = self.bridge.SCRIPT_MOVING_WINDOW.decode()
        window = await self._server.run(
            script, [self.bridge.prefixed_key(key)], [now - expiry, limit]
        )
        return (float(window[0]), window[1]) if window else (now, 0)


class RedisCounters(Counters):
    """`Counters` for all who share a Redis."""

    def __init__(self, server: Server, clock: Callable[[], float]) -> None:
        self._windows = RedisWindows(server, clock)
        super().__init__(self._windows, clock)
        self._server = server

    async def leave(self, limits: Sequence[Limit], entry: str) -> None:
        """Give up an entry, if it still counts."""
        for limit in limits:
            await self._server.ask("ZREM", _key(place(limit)), entry, meaning=Unrecorded)

    async def inside(self, limit: Limit) -> Sequence[str]:
        """The entries that count against a limit now, those that lapse first first."""
        after_now = f"({self._clock()}"
        entries = await self._server.ask("ZRANGEBYSCORE", _key(place(limit)), after_now, "+inf")
        return cast("Sequence[str]", entries)

    async def _acquire_all(self, shares: Sequence[Share]) -> int | None:
        return await self._windows.acquire_all(shares)

    async def _enter(self, limits: Sequence[Limit], entry: str) -> Full | None:
        now = self._clock()
        terms = [n for each in limits for n in (each.amount, each.seconds, now + each.seconds)]
        keys = [_key(place(limit)) for limit in limits]
        full = await self._server.run(_ENTER, keys, [now, entry, *terms])
        return full and Full(full[0] - 1, float(full[1]))

    async def _mark(self, key: str, text: str, seconds: float) -> bool:
        now, writer = self._clock(), secrets.token_urlsafe(9)
        lasts = max(1, int(1000 * seconds))
        arguments = [now, writer, text, now + seconds, lasts]
        return await self._server.run(_MARK, [_key(key)], arguments) == 1

    async def _unmark(self, key: str, text: str) -> bool:
        arguments = [self._clock(), text]
        return await self._server.run(_UNMARK, [_key(key)], arguments, Unrecorded) == 1

    async def _marked(self, key: str) -> tuple[str, float] | None:
        text, until = await self._server.ask("HMGET", _key(key), "text", "until")
        lapses = float(until or 0)
        return (text, lapses) if lapses > self._clock() else None


def _key(key: str) -> str:
    return f"{PREFIX}:{key}"
