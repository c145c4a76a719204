-- List a task as archived, and drop what is too old or too many: a bounded number of others, tasks and locks included.
-- The caller writes the task's own message and state.
local function archive(archived, id, now_s, task_prefix, oldest_s, most)
  redis.call('ZADD', archived, now_s, id)
  local dropped = redis.call('ZRANGE', archived, '-inf', oldest_s, 'BYSCORE', 'LIMIT', 0, 100)
  local excess = redis.call('ZCARD', archived) - #dropped - most
  if excess > 0 then
    local first = #dropped
    for _, other in ipairs(redis.call('ZRANGE', archived, first, first + math.min(excess, 100) - 1)) do
      dropped[#dropped + 1] = other
    end
  end
  for _, other in ipairs(dropped) do
    if other ~= id then
      local task = task_prefix .. other
      local seen = redis.call('HMGET', task, 'state', 'unique_key')
      if seen[1] == 'archived' then
        if seen[2] and string.sub(seen[2], 1, #task_prefix - 2) == string.sub(task_prefix, 1, -3) then
          release_lock(seen[2], other)
        end
        redis.call('DEL', task)
      end
      redis.call('ZREM', archived, other)
    end
  end
end
