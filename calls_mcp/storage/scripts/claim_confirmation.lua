-- Claim a confirmation. The claimant's name makes the script idempotent.
local record = KEYS[1]
local identifier, claimant, now = unpack(ARGV)
if redis.call('exists', record) == 0 then return 0 end
if redis.call('hsetnx', record, 'claimant', claimant) == 1 then
  redis.call('hset', record, 'claimed_at', now)
  redis.call('lrem', redis.call('hget', record, 'unused'), 1, identifier)
end
return redis.call('hget', record, 'claimant') == claimant and 1 or 0
