#!lua flags=allow-oom
-- Archive tasks that waited too long, if they still wait as they were seen to.
-- `message_end` goes behind each message: in protobuf a later field overrides an earlier one.
-- KEYS pending archived tasks*
-- ARGV now_s message_end ended_prefix lock_prefix ids_and_since*
-- RETURNS how many were archived
-- USES release_lock
local archived = 0
for i = 3, #KEYS do
  local task, id, since = KEYS[i], ARGV[i * 2 - 1], ARGV[i * 2]
  local seen = redis.call('HMGET', task, 'state', 'pending_since', 'msg')
  if seen[1] == 'pending' and seen[2] == since and seen[3] and redis.call('LREM', KEYS[1], -1, id) == 1 then
    redis.call('ZADD', KEYS[2], ARGV[1], id)
    redis.call('HSET', task, 'state', 'archived', 'msg', seen[3] .. ARGV[2])
    redis.call('HDEL', task, 'pending_since')
    release_lock_of(task, id, ARGV[4])
    redis.call('PUBLISH', ARGV[3] .. id, 'archived')
    archived = archived + 1
  end
end
return archived
