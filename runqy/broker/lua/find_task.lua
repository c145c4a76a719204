#!lua flags=no-writes,allow-stale
-- Find a task by its id: in the queue that its lookup names, else in all known queues. Not for clusters.
-- KEYS lookup
-- ARGV id queue_prefix queue_suffix max_bytes wants_payload known*
-- RETURNS as read_task.lua
-- USES read_task
local id = ARGV[1]
local function read_in(queue)
  local prefix = ARGV[2] .. queue .. ARGV[3]
  return read_task(queue, prefix .. 't:' .. id, id, {
    active = prefix .. 'lease', scheduled = prefix .. 'scheduled', retry = prefix .. 'retry',
    archived = prefix .. 'archived', completed = prefix .. 'completed',
  }, tonumber(ARGV[4]), ARGV[5] == '1')
end
local queue = redis.call('HGET', KEYS[1], 'queue')
local found = queue and read_in(queue)
for i = 6, #ARGV do
  found = found or read_in(ARGV[i])
end
return found
