-- Store a value under a key, unless it has one. The writer's name makes the script idempotent.
local now, writer, value, expires, lasts = unpack(ARGV)
local kept = redis.call('hmget', KEYS[1], 'until', 'writer')
local is_current = kept[1] and tonumber(kept[1]) > tonumber(now)
if is_current and kept[2] ~= writer then return 0 end
redis.call('hset', KEYS[1], 'writer', writer, 'text', value, 'until', expires)
redis.call('pexpire', KEYS[1], lasts)
return 1
