#!lua flags=allow-oom
-- Delete a claim that cannot be read. Its task is archived; one that was completed stays so. Both are kept from now on for
-- as long as after their end.
-- `message_end` is appended to the message: in protobuf a later field overrides an earlier one.
-- KEYS claims task completed archived
-- ARGV id content message_end now_s lock_prefix ended_prefix
-- RETURNS 1 deleted, 2 its task was put back too, 0 the claim has changed
-- USES release_lock add_to_archive
local claims, task, id = KEYS[1], KEYS[2], ARGV[1]
if redis.call('HGET', claims, id) ~= ARGV[2] then
  return 0
end
local seen = redis.pcall('HMGET', task, 'moving', 'state', 'msg', 'ttl_completed') -- an error has no fields either
if not seen[1] or not seen[3] then
  redis.call('HDEL', claims, id)
  return 1
end
redis.call('ZCARD', KEYS[seen[2] == 'completed' and 3 or 4]) -- fails before anything is written if it has another type
redis.call('HDEL', claims, id)
redis.call('HDEL', task, 'moving', 'pending_since')
if seen[2] == 'completed' then
  redis.call('ZADD', KEYS[3], string.format('%.0f', ARGV[4] + (tonumber(seen[4] or '') or 86400)), id)
  return 2
end
if seen[2] ~= 'archived' then
  redis.call('HSET', task, 'state', 'archived', 'msg', seen[3] .. ARGV[3])
  release_task_lock(task, id, ARGV[5])
  redis.call('PUBLISH', ARGV[6] .. id, 'archived')
end
add_to_archive(KEYS[4], task, id, ARGV[4])
return 2
