-- Remove a task that is not active from the index of its state, a key in `indexes` under the state's name.
-- Return whether the caller may proceed: false for a task held by asynq's aggregator, true for a pending one in no list.
local function remove_from_index(indexes, task, id, state, task_prefix)
  if state == 'pending' then
    remove_from_pending(indexes.pending, id, task_prefix)
  elseif indexes[state] then
    redis.call('ZREM', indexes[state], id)
  elseif state == 'aggregating' then
    local base = string.sub(task_prefix, 1, -3)
    local name = redis.call('HGET', task, 'group') or ''
    local group = base .. 'g:' .. name
    if redis.call('ZREM', group, id) == 0 then
      return false
    end
    if redis.call('EXISTS', group) == 0 then
      redis.call('SREM', base .. 'groups', name)
    end
  end
  return true
end
