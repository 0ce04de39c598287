-- Claim a confirmation, unless it was added in another run of Redis. The claimant's name makes the
-- script idempotent.
local record = KEYS[1]
local identifier, claimant, now = unpack(ARGV)
if redis.call('exists', record) == 0 then return 0 end
local run = redis.call('hget', record, 'run') -- earlier versions had none
if redis.call('hexists', record, 'claimant') == 0 and run and run ~= server_run_id() then return 0 end
if redis.call('hsetnx', record, 'claimant', claimant) == 1 then
  redis.call('hset', record, 'claimed_at', now)
  redis.call('lrem', redis.call('hget', record, 'unused'), 1, identifier)
end
return redis.call('hget', record, 'claimant') == claimant and 1 or 0
