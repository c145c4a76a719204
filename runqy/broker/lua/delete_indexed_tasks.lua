#!lua flags=allow-oom
-- Delete some tasks of an index, with their locks, while their queue is being deleted.
-- An index or a task of the wrong type, which only a worker can create, is deleted too.
-- KEYS index
-- ARGV task_prefix lock_prefix limit
-- RETURNS the ids removed from the index
-- USES release_lock append_end delete_task
local kind = redis.call('TYPE', KEYS[1]).ok
local is_list = kind == 'list'
if not is_list and kind ~= 'zset' then
  redis.call('UNLINK', KEYS[1])
  return {}
end
local ids = redis.call(is_list and 'LRANGE' or 'ZRANGE', KEYS[1], 0, ARGV[3] - 1)
for _, id in ipairs(ids) do
  if redis.call('TYPE', ARGV[1] .. id).ok == 'hash' then
    release_task_lock(ARGV[1] .. id, id, ARGV[2])
    end_deleted(ARGV[1] .. id, id)
  end
  unlink_task(ARGV[1] .. id, id)
end
if is_list then
  redis.call('LTRIM', KEYS[1], #ids, -1)
else
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, #ids - 1)
end
return ids
