#!lua flags=allow-oom
-- Take some tasks off an index of a queue that is being removed, and delete them and the locks they own.
-- An index or a task of another type, which only a worker can make, is deleted too.
-- KEYS index
-- ARGV task_prefix lock_prefix limit
-- RETURNS the ids that left the index
-- USES release_lock
local kind = redis.call('TYPE', KEYS[1]).ok
local is_list = kind == 'list'
if not is_list and kind ~= 'zset' then
  redis.call('UNLINK', KEYS[1])
  return {}
end
local ids = redis.call(is_list and 'LRANGE' or 'ZRANGE', KEYS[1], 0, ARGV[3] - 1)
for _, id in ipairs(ids) do
  if redis.call('TYPE', ARGV[1] .. id).ok == 'hash' then
    release_lock_of(ARGV[1] .. id, id, ARGV[2])
  end
  redis.call('UNLINK', ARGV[1] .. id)
end
if is_list then
  redis.call('LTRIM', KEYS[1], #ids, -1)
else
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, #ids - 1)
end
return ids
