-- Return 1 if an earlier call with the same time stored a task without retention (`ttl_completed` '0') that a worker has
-- completed and deleted since, else nil.
local function find_deleted(task, id, now_ns, ttl_completed)
  if ttl_completed ~= '0' then
    return nil
  end
  local deleted_by = 'runqy:q:' .. string.sub(task, 7, -#id - 3) .. 'deleted_by:' .. id -- QueueKeys.deleted_by
  local deleted = redis.pcall('GET', deleted_by) -- workers can write it
  return type(deleted) == 'string' and string.sub(deleted, -#now_ns - 1) == ' ' .. now_ns and 1 or nil
end

-- Return 1 if an earlier call with the same time stored a task, also if it has been deleted since: it must not run again.
-- Else 0 if the id exists, and nil if it does not.
local function find_enqueued(task, id, now_ns, ttl_completed)
  if redis.call('EXISTS', task) == 1 then
    return redis.call('HGET', task, 'enqueued') == now_ns and 1 or 0
  end
  return find_deleted(task, id, now_ns, ttl_completed)
end
