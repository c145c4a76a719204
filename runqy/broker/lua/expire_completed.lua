#!lua flags=allow-oom
-- Delete completed tasks whose retention is over.
-- KEYS completed
-- ARGV task_prefix lock_prefix now_s limit
-- RETURNS the ids removed from the index
-- USES release_lock append_end delete_task
local ids = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[3], 'BYSCORE', 'LIMIT', 0, ARGV[4])
for _, id in ipairs(ids) do
  delete_task(ARGV[1] .. id, id, 'completed', ARGV[2])
  redis.call('ZREM', KEYS[1], id)
end
return ids
