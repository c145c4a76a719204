-- Remove a task from `active` if its lease token matches.
-- Return 1 removed, 2 already removed with this token, 0 lease lost; nothing is written unless it was removed. If it was,
-- the second value is what `append_run` needs to know of the task. With `is_answer` its child responded for it: the deaths
-- of children that it shared with other tasks are forgotten.
local function remove_from_active(task, active, lease, id, lease_token, is_answer)
  local seen = redis.call('HMGET', task, 'owner', 'finished_by', 'attempts', 'enqueued', 'due', 'started', 'worker',
    'notify')
  if seen[1] ~= lease_token then
    return seen[2] == lease_token and 2 or 0
  end
  if not redis.call('ZSCORE', lease, id) or redis.call('LREM', active, 0, id) == 0 then
    return 0
  end
  redis.call('ZREM', lease, id)
  redis.call('HDEL', task, 'owner', is_answer and 'shared_deaths' or 'owner')
  redis.call('HSET', task, 'finished_by', lease_token)
  return 1, seen
end
