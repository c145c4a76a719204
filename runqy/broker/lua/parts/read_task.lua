-- Return a task's queue, its score in the index of its state (or ''), and its fields; nil if there is no task.
local function read_task(queue, task, id, indexes)
  local fields = redis.call('HGETALL', task)
  if #fields == 0 then
    return nil
  end
  local index = indexes[redis.call('HGET', task, 'state')]
  return {queue, index and redis.call('ZSCORE', index, id) or '', fields}
end
