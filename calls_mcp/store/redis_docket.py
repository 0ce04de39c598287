"""The operator's cases in Redis. Every change is one script, so that it happens as a whole."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from calls_mcp.store.docket import (
    Case,
    Filed,
    Place,
    Queue,
    Ruling,
    pack_case,
    pack_ruling,
    queue,
    unpack_filed,
    unpack_ruling,
)

if TYPE_CHECKING:
    from calls_mcp.store.record import Keeping
    from calls_mcp.store.redis import Server

_PREFIX = "calls-mcp:case"
_ALL = "calls-mcp:cases"
_UNDECIDED, _LAPSING, _TURNS = (f"calls-mcp:{name}" for name in ("undecided", "lapsing", "turns"))
_EVERYBODYS = [_UNDECIDED, _LAPSING, _TURNS]

# `waiting` has a principal's undecided cases by when they lapse, `all` each case by its age. Of
# everybody's undecided ones, `undecided` has their ages and `lapsing` when they lapse, and `turns`
# counts what was filed and decided.
_FILE = """
local case, waiting, all, undecided, lapsing, turns = unpack(KEYS)
local identifier, packed, now, asked, lapses, lasts, most = unpack(ARGV)
if redis.call('exists', case) == 1 then return 1 end
redis.call('zremrangebyscore', waiting, '-inf', now)
if redis.call('zcard', waiting) >= tonumber(most) then return 0 end
redis.call('hset', case, 'case', packed, 'waiting', waiting, 'lapses', lapses)
redis.call('pexpire', case, lasts)
redis.call('zadd', waiting, lapses, identifier)
redis.call('zremrangebyscore', all, '-inf', now - lasts / 1000)
redis.call('zadd', all, asked, identifier)
redis.call('zadd', undecided, asked, identifier)
redis.call('zadd', lapsing, lapses, identifier)
redis.call('incr', turns)
for _, key in ipairs({waiting, all, undecided, lapsing, turns}) do
  if redis.call('pttl', key) < tonumber(lasts) then redis.call('pexpire', key, lasts) end
end
return 1
"""

_RULE = """
local case, undecided, lapsing, turns = unpack(KEYS)
local identifier, ruling, now = unpack(ARGV)
if redis.call('exists', case) == 0 then return nil end
if tonumber(redis.call('hget', case, 'lapses')) > tonumber(now) then
  if redis.call('hsetnx', case, 'ruling', ruling) == 1 then
    redis.call('zrem', redis.call('hget', case, 'waiting'), identifier)
    redis.call('zrem', undecided, identifier)
    redis.call('zrem', lapsing, identifier)
    redis.call('incr', turns)
  end
end
return redis.call('hget', case, 'ruling')
"""

_LIST = """
local found = {}
for _, identifier in ipairs(redis.call('zrevrange', KEYS[1], 0, ARGV[1] - 1)) do
  local row = redis.call('hmget', ARGV[2] .. identifier, 'case', 'ruling')
  if row[1] then found[#found + 1] = row end
end
return found
"""


_LAPSE = """
local undecided, lapsing, turns = unpack(KEYS)
for _, identifier in ipairs(redis.call('zrangebyscore', lapsing, '-inf', ARGV[1])) do
  redis.call('zrem', undecided, identifier)
  redis.call('zrem', lapsing, identifier)
end
"""

# To be put where the place is and taken away again tells how many are before it.
_WAITING = f"""{_LAPSE}
local _, most, prefix, at, after = unpack(ARGV)
local from, found = 0, {{redis.call('zcard', undecided)}}
if after then
  local was_there = redis.call('zadd', undecided, 'NX', at, after) == 0
  from = redis.call('zrank', undecided, after)
  if was_there then from = from + 1 else redis.call('zrem', undecided, after) end
end
for _, identifier in ipairs(redis.call('zrange', undecided, from, from + most - 1)) do
  local case = redis.call('hget', prefix .. identifier, 'case')
  found[#found + 1] = {{case or '', identifier, redis.call('zscore', undecided, identifier)}}
end
return found
"""

_MARK = f"""{_LAPSE}
return redis.call('zcard', undecided) .. '.' .. (redis.call('get', turns) or 0)
"""


class RedisDocket:
    """A `Docket` beside the confirmations of a store."""

    def __init__(self, server: "Server", keeping: "Keeping") -> None:
        self._server = server
        self._keeping = keeping

    async def file(self, case: Case, most: int) -> bool:
        """Keep a new case, until it is old."""
        now = self._keeping.clock()
        lasts = round((case.lapses_at - now + self._keeping.retention) * 1000)
        mine = _key(case.identifier), _waiting(case.binding.principal)
        keys = [*mine, _ALL, *_EVERYBODYS]
        times = [now, case.asked_at, case.lapses_at, lasts]
        arguments = [case.identifier, pack_case(case), *times, most]
        return await self._server.run(_FILE, keys, arguments) == 1

    async def find(self, identifier: str) -> Filed | None:
        """The case of this identifier, if it is still kept."""
        row = await self._server.ask("HMGET", _key(identifier), "case", "ruling")
        case, ruling = cast("tuple[str | None, str | None]", row)
        return unpack_filed(case, ruling) if case else None

    async def settled(self, identifier: str) -> Filed | None:
        """The same: Redis does one thing at a time."""
        return await self.find(identifier)

    async def rule(self, identifier: str, ruling: Ruling) -> Ruling | None:
        """Decide a case, once for all."""
        arguments = [identifier, pack_ruling(ruling), self._keeping.clock()]
        keys = [_key(identifier), *_EVERYBODYS]
        standing = await self._server.run(_RULE, keys, arguments)
        return unpack_ruling(cast("str", standing)) if standing else None

    async def listed(self, most: int) -> Sequence[Filed]:
        """The newest cases, the newest first."""
        rows = await self._server.run(_LIST, [_ALL], [most, f"{_PREFIX}:"])
        unpacked = (unpack_filed(*row) for row in cast("list[tuple[str, str | None]]", rows))
        return [filed for filed in unpacked if filed]

    async def waiting(self, most: int, after: Place | None = None) -> Queue:
        """At most `most` of those that can be decided now, the oldest first."""
        place = [after.asked_at, after.identifier] if after else []
        arguments = [self._keeping.clock(), most + 1, f"{_PREFIX}:", *place]
        count, *rows = await self._server.run(_WAITING, _EVERYBODYS, arguments)
        return queue([(case, identifier, float(at)) for case, identifier, at in rows], most, count)

    async def mark(self) -> str:
        """What is another whenever something else waits than before."""
        mark: str = await self._server.run(_MARK, _EVERYBODYS, [self._keeping.clock()])
        return mark


def _key(identifier: str) -> str:
    return f"{_PREFIX}:{identifier}"


def _waiting(principal: str) -> str:
    return f"calls-mcp:waiting:{hashlib.sha256(principal.encode()).hexdigest()}"
