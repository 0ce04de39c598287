-- Return for each number how many calls of it count in the last day, and 1 if it was called before;
-- or, if a number was called too often, its limit (1: day, 2: week) and when the next call is allowed.
-- With an entry, also count a call to each. Running the script again changes nothing.
-- A key has the calls by when they are a week old. The last one is kept for as long as the key.
local now, entry, lasts = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local most = {tonumber(ARGV[4]), tonumber(ARGV[5])}
local week = 7 * 86400
local windows = {'(' .. string.format('%.6f', now + week - 86400), '(' .. ARGV[1]}
local found = {0}
for _, key in ipairs(KEYS) do
  local calls = redis.call('zcard', key)
  local old = math.min(redis.call('zcount', key, '-inf', now), calls - 1)
  if old > 0 then redis.call('zremrangebyrank', key, 0, old - 1) end
  for i, window in ipairs(windows) do
    local count = redis.call('zcount', key, window, '+inf')
    if most[i] > 0 and count >= most[i] and not redis.call('zscore', key, entry) then
      local call = redis.call('zrangebyscore', key, window, '+inf', 'WITHSCORES', 'LIMIT', count - most[i], 1)
      return {i, call[2]}
    end
    if i == 1 then found[#found + 1] = count end
  end
  found[#found + 1] = calls > 0 and 1 or 0
end
if entry == '' then return found end
for _, key in ipairs(KEYS) do
  redis.call('zadd', key, 'NX', string.format('%.6f', now + week), entry)
  redis.call('expire', key, lasts)
end
return found
