-- Take a lock for a task; return the task that has it and keeps it, nothing when it is this one's. A lock whose task is
-- over or gone is taken over.
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
