-- Take a task out of `active` for the owner that holds it.
-- Returns 1 it left, 2 this owner did that before, 0 somebody else holds it or nobody; nothing is written unless it left.
local function leave_active(task, active, lease, id, owner)
  local seen = redis.call('HMGET', task, 'owner', 'finished_by')
  if seen[1] ~= owner then
    return seen[2] == owner and 2 or 0
  end
  if not redis.call('ZSCORE', lease, id) or redis.call('LREM', active, 0, id) == 0 then
    return 0
  end
  redis.call('ZREM', lease, id)
  redis.call('HDEL', task, 'owner')
  redis.call('HSET', task, 'finished_by', owner)
  return 1
end
