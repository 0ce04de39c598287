-- Decide an approval request unless it was decided or has expired; return the decision that counts.
local request, undecided, expiring, turns = unpack(KEYS)
local identifier, decision, now = unpack(ARGV)
if redis.call('exists', request) == 0 then return nil end
if tonumber(redis.call('hget', request, 'expires')) > tonumber(now) then
  if redis.call('hsetnx', request, 'decision', decision) == 1 then
    redis.call('zrem', redis.call('hget', request, 'mine'), identifier)
    redis.call('zrem', undecided, identifier)
    redis.call('zrem', expiring, identifier)
    redis.call('incr', turns)
  end
end
return redis.call('hget', request, 'decision')
