-- Delete a value if it is this one and has not expired; return whether it was deleted.
local kept = redis.call('hmget', KEYS[1], 'until', 'text')
if kept[2] ~= ARGV[2] or tonumber(kept[1]) <= tonumber(ARGV[1]) then return 0 end
return redis.call('del', KEYS[1])
