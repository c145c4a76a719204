#!lua flags=allow-oom
-- Archive tasks that were pending for too long, if they are unchanged.
-- `message_end` is appended to each message: in protobuf a later field overrides an earlier one.
-- KEYS pending archived runs counters tasks*
-- ARGV now_s message_end ended_prefix lock_prefix now_ns details ids_and_since*
-- RETURNS how many were archived
-- USES release_lock in_ns remove_from_pending add_to_archive append_end log_run add_to_counter log_waiting_task
local archived = 0
for i = 5, #KEYS do
  local task, id, since = KEYS[i], ARGV[i * 2 - 3], ARGV[i * 2 - 2]
  local seen = redis.call('HMGET', task, 'state', 'pending_since', 'msg')
  if seen[1] == 'pending' and seen[2] == since and seen[3] and remove_from_pending(KEYS[1], id, string.sub(task, 1, -#id - 1)) == 1 then
    add_to_archive(KEYS[2], task, id, ARGV[1])
    redis.call('HSET', task, 'state', 'archived', 'msg', seen[3] .. ARGV[2])
    redis.call('HDEL', task, 'pending_since')
    release_task_lock(task, id, ARGV[4])
    log_waiting_task(KEYS[3], KEYS[4], task, id, 'expired-' .. since, 'expired', ARGV[5], since, ARGV[6])
    redis.call('PUBLISH', ARGV[3] .. id, 'archived')
    archived = archived + 1
  end
end
return archived
