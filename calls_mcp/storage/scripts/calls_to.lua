-- Return for each number how many calls to it count in the last day, 1 if it was called before, and
-- the last other call of the week;
-- or a limit without room for the new calls to a number (1: day, 2: week) and when there is room.
-- With entries, also count as many new calls to each number as `times` says. Running the script again
-- changes nothing.
-- A key has the calls by when they are a week old. The last one is kept for as long as the key.
local now, lasts, most = tonumber(ARGV[1]), ARGV[2], {tonumber(ARGV[3]), tonumber(ARGV[4])}
local first = 5 + #KEYS  -- the entries follow the number of calls to each number
local week = 7 * 86400
local until_old = string.format('%.6f', now + week)
local windows = {'(' .. string.format('%.6f', now + week - 86400), '(' .. ARGV[1]}
local found = {0}
for k, key in ipairs(KEYS) do
  local calls, times = redis.call('zcard', key), tonumber(ARGV[4 + k])
  local old = math.min(redis.call('zcount', key, '-inf', now), calls - 1)
  if old > 0 then redis.call('zremrangebyrank', key, 0, old - 1) end
  local counted = ARGV[first] and redis.call('zscore', key, ARGV[first])
  for i, window in ipairs(windows) do
    local count = redis.call('zcount', key, window, '+inf')
    local excess = count + times - most[i]
    if most[i] > 0 and excess > 0 and not counted then
      local call = redis.call('zrangebyscore', key, window, '+inf', 'WITHSCORES', 'LIMIT', excess - 1, 1)
      return {i, call[2] or until_old}
    end
    if i == 1 then found[k + 1] = {count, calls > 0 and 1 or 0, ''} end
  end
  local own = {}
  for entry = first, first + times - 1 do own[ARGV[entry] or ''] = true end
  for _, entry in ipairs(redis.call('zrevrangebyscore', key, '+inf', windows[2], 'LIMIT', 0, times + 1)) do
    if not own[entry] then
      found[k + 1][3] = entry
      break
    end
  end
end
if not ARGV[first] then return found end
for k, key in ipairs(KEYS) do
  for entry = first, first + tonumber(ARGV[4 + k]) - 1 do
    redis.call('zadd', key, 'NX', until_old, ARGV[entry])
  end
  redis.call('expire', key, lasts)
end
return found
