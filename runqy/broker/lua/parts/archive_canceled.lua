-- Return whether a task's cancellation was requested, at `cancel`, after it was archived last. An older request does not
-- count: asynq's tools run an archived task without removing the field.
local function is_canceled(task, cancel)
  local archived_at = tonumber(redis.call('HGET', task, 'archived_at') or '') or -1
  return math.floor((tonumber(cancel) or 0) / 1e9) > archived_at
end

-- Archive a task that is in no index because its cancellation was requested, and notify waiting clients.
-- `cancellation` is appended to its message; `prefix` is that of its queue's keys, `asynq:{Q}:`.
local function archive_canceled(task, id, prefix, now_s, cancellation, ended_prefix)
  add_to_archive(prefix .. 'archived', task, id, now_s)
  release_task_lock(task, id, prefix .. 'unique:')
  redis.call('HSET', task, 'msg', (redis.call('HGET', task, 'msg') or '') .. cancellation, 'state', 'archived')
  local seen = redis.call('HMGET', task, 'cancel', 'pending_since')
  local own_prefix = 'runqy:q:' .. string.sub(prefix, 7)
  log_waiting_task(own_prefix .. 'runs', own_prefix .. 'run_counters', task, id, 'cancel-' .. seen[1], 'canceled',
    string.format('%.0f000000000', now_s), seen[2], '')
  redis.call('HDEL', task, 'pending_since')
  redis.call('PUBLISH', ended_prefix .. id, 'archived')
end
