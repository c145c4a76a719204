-- Add a task to the archive, release its lock, and delete a bounded number of tasks that are too old or too many.
-- The caller writes the task's own message and state.
local function archive(archived, id, now_s, task_prefix, oldest_s, max_archived)
  local lock_prefix = string.sub(task_prefix, 1, -3) .. 'unique:'
  add_to_archive(archived, task_prefix .. id, id, now_s)
  release_task_lock(task_prefix .. id, id, lock_prefix)
  local dropped = redis.call('ZRANGE', archived, '-inf', oldest_s, 'BYSCORE', 'LIMIT', 0, 100)
  local excess = math.min(redis.call('ZCARD', archived) - #dropped - max_archived, 100)
  if excess > 0 then
    for _, other in ipairs(redis.call('ZRANGE', archived, #dropped, #dropped + excess - 1)) do
      dropped[#dropped + 1] = other
    end
  end
  for _, other in ipairs(dropped) do
    if other ~= id then
      delete_task(task_prefix .. other, other, 'archived', lock_prefix)
      redis.call('ZREM', archived, other)
    end
  end
end
