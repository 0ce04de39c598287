-- Note a text under a key, unless there is a note. The writer's name makes a repetition of the same
-- request say the same.
local now, writer, text, expires, lasts = unpack(ARGV)
local note = redis.call('hmget', KEYS[1], 'until', 'writer')
local stands = note[1] and tonumber(note[1]) > tonumber(now)
if stands and note[2] ~= writer then return 0 end
redis.call('hset', KEYS[1], 'writer', writer, 'text', text, 'until', expires)
redis.call('pexpire', KEYS[1], lasts)
return 1
