#!lua flags=allow-oom
-- Archive those of the tasks that wait again, because a worker that ignores cancellations put them back. Active tasks
-- stay in the set. Those that have ended, or whose cancellation no longer counts, are removed from it.
-- KEYS cancellations pending retry scheduled
-- ARGV now_s task_prefix cancellation ended_prefix ids*
-- RETURNS how many were archived
-- USES release_lock append_end delete_task add_to_archive log_run add_to_counter log_waiting_task archive_canceled in_ns remove_from_pending
local archived = 0
for i = 5, #ARGV do
  local id = ARGV[i]
  local task = ARGV[2] .. id
  local seen = redis.call('HMGET', task, 'state', 'cancel')
  local state, removed = seen[1], 0
  if not seen[2] or not is_canceled(task, seen[2]) then
    state = nil
  elseif state == 'pending' then
    removed = remove_from_pending(KEYS[2], id, ARGV[2])
  elseif state == 'retry' then
    removed = redis.call('ZREM', KEYS[3], id)
  elseif state == 'scheduled' then
    removed = redis.call('ZREM', KEYS[4], id)
  end
  if removed > 0 then
    archive_canceled(task, id, string.sub(ARGV[2], 1, -3), ARGV[1], ARGV[3], ARGV[4])
    archived = archived + 1
  end
  if removed > 0 or not state or state == 'completed' or state == 'archived' then
    redis.call('SREM', KEYS[1], id)
  end
end
return archived
