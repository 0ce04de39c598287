-- Add an approval request. `mine` has the owner's undecided requests by expiry, and `all` has all
-- requests by age. `undecided` has all undecided requests by age, and `expiring` has them by expiry.
-- `turns` counts requests and decisions.
local request, mine, all, undecided, expiring, turns = unpack(KEYS)
local identifier, packed, now, asked, expires, lasts, most = unpack(ARGV)
if redis.call('exists', request) == 1 then return 1 end
redis.call('zremrangebyscore', mine, '-inf', now)
if redis.call('zcard', mine) >= tonumber(most) then return 0 end
redis.call('hset', request, 'request', packed, 'mine', mine, 'expires', expires)
redis.call('pexpire', request, lasts)
redis.call('zadd', mine, expires, identifier)
redis.call('zremrangebyscore', all, '-inf', now - lasts / 1000)
redis.call('zadd', all, asked, identifier)
redis.call('zadd', undecided, asked, identifier)
redis.call('zadd', expiring, expires, identifier)
redis.call('incr', turns)
for _, key in ipairs({mine, all, undecided, expiring, turns}) do
  if redis.call('pttl', key) < tonumber(lasts) then redis.call('pexpire', key, lasts) end
end
return 1
