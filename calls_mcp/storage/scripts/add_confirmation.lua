-- Add a confirmation, and remove the owner's oldest unused ones if there are too many.
local record, unused = KEYS[1], KEYS[2]
local identifier, pending, lasts, max_unused, prefix = unpack(ARGV)
if redis.call('exists', record) == 1 then return end
redis.call('hset', record, 'pending', pending, 'unused', unused, 'run', server_run_id())
redis.call('pexpire', record, lasts)
redis.call('lpush', unused, identifier)
redis.call('pexpire', unused, lasts)
while redis.call('llen', unused) > tonumber(max_unused) do
  redis.call('del', prefix .. redis.call('rpop', unused))
end
