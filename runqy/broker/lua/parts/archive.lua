-- List a task as archived, free its lock, and drop what is too old or too many: a bounded number of others, with their locks.
-- The caller writes the task's own message and state.
local function archive(archived, id, now_s, task_prefix, oldest_s, most)
  local lock_prefix = string.sub(task_prefix, 1, -3) .. 'unique:'
  redis.call('ZADD', archived, now_s, id)
  release_lock_of(task_prefix .. id, id, lock_prefix)
  local dropped = redis.call('ZRANGE', archived, '-inf', oldest_s, 'BYSCORE', 'LIMIT', 0, 100)
  local excess = math.min(redis.call('ZCARD', archived) - #dropped - most, 100)
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
