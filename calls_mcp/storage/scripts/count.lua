-- Count `entry`, unless it is empty, in every limit if all have room. Otherwise return the number
-- of one that has none, and when it gets some. Entries are sorted by expiry.
local now, entry = ARGV[1], ARGV[2]
for i, key in ipairs(KEYS) do
  local amount, expires = tonumber(ARGV[3*i]), ARGV[3*i+2]
  redis.call('zremrangebyscore', key, '-inf', now)
  if redis.call('zcard', key) >= amount and not redis.call('zscore', key, entry) then
    return {i, redis.call('zrange', key, 0, 0, 'WITHSCORES')[2] or expires}
  end
end
if entry == '' then return false end
for i, key in ipairs(KEYS) do
  local seconds, expires = tonumber(ARGV[3*i+1]), ARGV[3*i+2]
  redis.call('zadd', key, expires, entry)
  redis.call('expire', key, math.max(seconds, redis.call('ttl', key)))
end
return false
