-- Return the newest approval requests with their decisions.
local found = {}
for _, identifier in ipairs(redis.call('zrevrange', KEYS[1], 0, ARGV[1] - 1)) do
  local row = redis.call('hmget', ARGV[2] .. identifier, 'request', 'decision')
  if row[1] then found[#found + 1] = row end
end
return found
