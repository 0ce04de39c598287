-- Add a call to the talk time of some budgets, or return the first one that it does not fit in.
-- If the call is there already, replace it. A budget is a hash of calls: their beginning, least and
-- most seconds, how many calls they are, and data.
local now, entry, value, is_new = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4] == '1'
local day, needed = tonumber(ARGV[5]), tonumber(ARGV[6])
for i, key in ipairs(KEYS) do
  local total, calls = 0, is_new and redis.call('hgetall', key) or {}
  for j = 1, #calls, 2 do
    local since, least, most, times = calls[j + 1]:match('^(%S+) (%S+) (%S+) (%S+)')
    if since + day <= now then
      redis.call('hdel', key, calls[j])
    elseif calls[j] ~= entry then
      total = total + math.max(least, math.min(most, times * (now - since)))
    end
  end
  if is_new and total + needed > tonumber(ARGV[6 + i]) and redis.call('hexists', key, entry) == 0 then
    return i
  end
end
if entry == '' then return 0 end
for _, key in ipairs(KEYS) do
  if is_new or redis.call('hexists', key, entry) == 1 then
    redis.call('hset', key, entry, value)
    if is_new then redis.call('expire', key, day) end
  end
end
return 0
