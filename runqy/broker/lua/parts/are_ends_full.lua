-- Return whether a task that tells its end may not be enqueued, because too many ends are waiting to be told.
local function are_ends_full(task, id, notify, max_ends)
  if notify == '' then
    return false
  end
  local count = redis.pcall('XLEN', 'runqy:q:' .. string.sub(task, 7, -#id - 3) .. 'ends') -- QueueKeys.ends
  return type(count) == 'number' and count >= max_ends
end
