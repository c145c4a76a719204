-- Take a lock for a task; return the other task that holds it, or nil. A lock of a finished or deleted task is taken
-- over: asynq's tools and Go's workers leave such locks.
local function take_lock(lock, id, lock_s, task_prefix)
  local expiry = lock_s > 0 and {'EX', lock_s} or {}
  if redis.call('SET', lock, id, 'NX', unpack(expiry)) then
    return nil
  end
  local holder = redis.call('GET', lock)
  local state = redis.call('HGET', task_prefix .. holder, 'state')
  if holder ~= id and state and state ~= 'completed' and state ~= 'archived' then
    return holder
  end
  redis.call('SET', lock, id, unpack(expiry))
  return nil
end
