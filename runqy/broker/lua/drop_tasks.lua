#!lua flags=allow-oom
-- Take some tasks off an index of a queue that is being removed, and delete them and the locks they own.
-- KEYS index
-- ARGV task_prefix lock_prefix limit
-- RETURNS the ids that left the index
-- USES release_lock
local is_list = redis.call('TYPE', KEYS[1]).ok == 'list'
local ids = redis.call(is_list and 'LRANGE' or 'ZRANGE', KEYS[1], 0, ARGV[3] - 1)
for _, id in ipairs(ids) do
  release_lock_of(ARGV[1] .. id, id, ARGV[2])
  redis.call('UNLINK', ARGV[1] .. id)
end
if is_list then
  redis.call('LTRIM', KEYS[1], #ids, -1)
else
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, #ids - 1)
end
return ids
