-- Count `n` entries against all limits, if they have room for `needed`. If a limit is too low, count
-- nothing and return its number and when enough of its entries have expired.
-- Entries are sorted by expiry. They are unique, so running the script again changes nothing.
local now, needed, n = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local terms = 3 + n  -- the limits' amounts, seconds and expiries follow the entries
for i, key in ipairs(KEYS) do
  local amount, expires = tonumber(ARGV[terms+3*i-2]), ARGV[terms+3*i]
  redis.call('zremrangebyscore', key, '-inf', now)
  local counted = n > 0 and redis.call('zscore', key, ARGV[4])
  local excess = redis.call('zcard', key) + needed - amount
  if excess > 0 and not counted then
    return {i, redis.call('zrange', key, excess - 1, excess - 1, 'WITHSCORES')[2] or expires}
  end
end
if n == 0 then return false end
for i, key in ipairs(KEYS) do
  local seconds, expires = tonumber(ARGV[terms+3*i-1]), ARGV[terms+3*i]
  for entry = 4, 3 + n do redis.call('zadd', key, expires, ARGV[entry]) end
  redis.call('expire', key, math.max(seconds, redis.call('ttl', key)))
end
return false
