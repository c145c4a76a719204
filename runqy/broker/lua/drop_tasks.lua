#!lua flags=allow-oom
-- Take some tasks off an index of a queue that is being removed, and delete them and the locks they own.
-- KEYS index
-- ARGV task_prefix lock_prefix limit
-- RETURNS the ids that left the index
-- USES release_lock
local is_list = redis.call('TYPE', KEYS[1]).ok == 'list'
local ids = redis.call(is_list and 'LRANGE' or 'ZRANGE', KEYS[1], 0, ARGV[3] - 1)
for _, id in ipairs(ids) do
  local lock = redis.call('HGET', ARGV[1] .. id, 'unique_key')
  if lock and string.sub(lock, 1, #ARGV[2]) == ARGV[2] then
    release_lock(lock, id)
  end
  redis.call('UNLINK', ARGV[1] .. id)
end
if is_list then
  redis.call('LTRIM', KEYS[1], #ids, -1)
else
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, #ids - 1)
end
return ids
