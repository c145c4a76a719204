-- Return a task's queue, its score in the index that its state names (or ''), and its fields; nothing if there is none.
local function read_task(queue, task, id, indexes)
  local fields = redis.call('HGETALL', task)
  if #fields == 0 then
    return nil
  end
  local index = indexes[redis.call('HGET', task, 'state')]
  return {queue, index and redis.call('ZSCORE', index, id) or '', fields}
end
