-- Return the number of pending approval requests, the number of turns, and a page of the requests.
local undecided, expiring, turns = unpack(KEYS)
local now, most, prefix, at, after = unpack(ARGV)
for _, identifier in ipairs(redis.call('zrangebyscore', expiring, '-inf', now)) do
  redis.call('zrem', undecided, identifier)
  redis.call('zrem', expiring, identifier)
end
local from = 0
local found = {redis.call('zcard', undecided), tonumber(redis.call('get', turns) or 0)}
if after then -- add the position, and remove it again, to count the requests before it
  local was_there = redis.call('zadd', undecided, 'NX', at, after) == 0
  from = redis.call('zrank', undecided, after)
  if was_there then from = from + 1 else redis.call('zrem', undecided, after) end
end
if tonumber(most) == 0 then return found end
for _, identifier in ipairs(redis.call('zrange', undecided, from, from + most - 1)) do
  local request = redis.call('hget', prefix .. identifier, 'request')
  found[#found + 1] = {request or '', identifier, redis.call('zscore', undecided, identifier)}
end
return found
