-- Return which run of Redis this is. A restart, a failover and a restored snapshot begin a new one.
local function server_run_id()
  local server, replication = redis.pcall('info', 'server'), redis.pcall('info', 'replication')
  local run = type(server) == 'string' and server:match('run_id:(%w+)') or ''
  local replid = type(replication) == 'string' and replication:match('master_replid:(%w+)') or ''
  return run .. ':' .. replid
end
