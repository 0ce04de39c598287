-- Remove a note, if it has this text and still stands; return whether it was removed.
local note = redis.call('hmget', KEYS[1], 'until', 'text')
if note[2] ~= ARGV[2] or tonumber(note[1]) <= tonumber(ARGV[1]) then return 0 end
return redis.call('del', KEYS[1])
