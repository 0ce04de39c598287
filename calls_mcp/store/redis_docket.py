"""The operator's cases in Redis. Every change is one script, so that it happens as a whole."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from calls_mcp.store.docket import (
    Case,
    Filed,
    Ruling,
    pack_case,
    pack_ruling,
    unpack_filed,
    unpack_ruling,
)

if TYPE_CHECKING:
    from calls_mcp.store.record import Keeping
    from calls_mcp.store.redis import Server

_PREFIX = "calls-mcp:case"
_ALL = "calls-mcp:cases"

# `waiting` has a principal's undecided cases by when they lapse, `all` each case by its age.
_FILE = """
local case, waiting, all = KEYS[1], KEYS[2], KEYS[3]
local identifier, packed, now, asked, lapses, lasts, most = unpack(ARGV)
if redis.call('exists', case) == 1 then return 1 end
redis.call('zremrangebyscore', waiting, '-inf', now)
if redis.call('zcard', waiting) >= tonumber(most) then return 0 end
redis.call('hset', case, 'case', packed, 'waiting', waiting, 'lapses', lapses)
redis.call('pexpire', case, lasts)
redis.call('zadd', waiting, lapses, identifier)
redis.call('pexpire', waiting, lasts)
redis.call('zremrangebyscore', all, '-inf', now - lasts / 1000)
redis.call('zadd', all, asked, identifier)
redis.call('pexpire', all, lasts)
return 1
"""

_RULE = """
local case = KEYS[1]
local identifier, ruling, now = unpack(ARGV)
if redis.call('exists', case) == 0 then return nil end
if tonumber(redis.call('hget', case, 'lapses')) > tonumber(now) then
  if redis.call('hsetnx', case, 'ruling', ruling) == 1 then
    redis.call('zrem', redis.call('hget', case, 'waiting'), identifier)
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


class RedisDocket:
    """A `Docket` beside the confirmations of a store."""

    def __init__(self, server: "Server", keeping: "Keeping") -> None:
        self._server = server
        self._keeping = keeping

    async def file(self, case: Case, most: int) -> bool:
        """Keep a new case, until it is old."""
        now = self._keeping.clock()
        lasts = round((case.lapses_at - now + self._keeping.retention) * 1000)
        keys = [_key(case.identifier), _waiting(case.binding.principal), _ALL]
        times = [now, case.asked_at, case.lapses_at, lasts]
        arguments = [case.identifier, pack_case(case), *times, most]
        return await self._server.run(_FILE, keys, arguments) == 1

    async def find(self, identifier: str) -> Filed | None:
        """The case of this identifier, if it is still kept."""
        row = await self._server.ask("HMGET", _key(identifier), "case", "ruling")
        case, ruling = cast("tuple[str | None, str | None]", row)
        return unpack_filed(case, ruling) if case else None

    async def rule(self, identifier: str, ruling: Ruling) -> Ruling | None:
        """Decide a case, once for all."""
        arguments = [identifier, pack_ruling(ruling), self._keeping.clock()]
        standing = await self._server.run(_RULE, [_key(identifier)], arguments)
        return unpack_ruling(cast("str", standing)) if standing else None

    async def listed(self, most: int) -> Sequence[Filed]:
        """The newest cases, the newest first."""
        rows = await self._server.run(_LIST, [_ALL], [most, f"{_PREFIX}:"])
        unpacked = (unpack_filed(*row) for row in cast("list[tuple[str, str | None]]", rows))
        return [filed for filed in unpacked if filed]


def _key(identifier: str) -> str:
    return f"{_PREFIX}:{identifier}"


def _waiting(principal: str) -> str:
    return f"calls-mcp:waiting:{hashlib.sha256(principal.encode()).hexdigest()}"
