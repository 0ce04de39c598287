-- Record the outcome of a confirmation. It expires with the confirmation.
local record, outcome = KEYS[1], KEYS[2]
if redis.call('exists', record) == 0 or redis.call('exists', outcome) == 1 then return end
redis.call('rpush', outcome, ARGV[1])
redis.call('pexpire', outcome, redis.call('pttl', record))
