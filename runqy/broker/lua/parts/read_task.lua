-- Return a task's queue, its score in the index of its state (or ''), and its fields; nil if there is no task, and the
-- size of one whose message and result have more than `max_bytes`.
local function read_task(queue, task, id, indexes, max_bytes)
  local size = redis.call('HSTRLEN', task, 'msg') + redis.call('HSTRLEN', task, 'result')
  if size > max_bytes then
    return size
  end
  local fields = redis.call('HGETALL', task)
  if #fields == 0 then
    return nil
  end
  local index = indexes[redis.call('HGET', task, 'state')]
  return {queue, index and redis.call('ZSCORE', index, id) or '', fields}
end
