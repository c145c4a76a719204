-- Take a task that does not run off the index of its state, a key in `indexes` under the state's name.
-- Returns whether it may go on: not with a task that is in the hands of asynq's aggregator. One that was lost may.
local function leave_index(indexes, task, id, state, task_prefix)
  if state == 'pending' then
    redis.call('LREM', indexes.pending, -1, id)
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
