-- Take one from every limit if all have room, and if `take` is 1. Otherwise return the number of
-- one that has none, and since when that has been so. A window is a list of times, newest first.
local now, take = ARGV[1], ARGV[2]
for i, key in ipairs(KEYS) do
  local amount, seconds = tonumber(ARGV[2*i+1]), tonumber(ARGV[2*i+2])
  if amount == 0 then return {i, now} end
  local in_the_way = redis.call('lindex', key, amount - 1)
  if in_the_way and tonumber(in_the_way) > now - seconds then return {i, in_the_way} end
end
if take ~= '1' then return false end
for i, key in ipairs(KEYS) do
  redis.call('lpush', key, now)
  redis.call('ltrim', key, 0, ARGV[2*i+1] - 1)
  redis.call('expire', key, ARGV[2*i+2])
end
return false
