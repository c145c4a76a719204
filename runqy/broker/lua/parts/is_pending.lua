-- Find ids in a pending list without scanning a long one. Use `remove_from_pending` too.

local function is_near_end(pending, id)
  return redis.call('LPOS', pending, id, 'MAXLEN', NEAR_END)
    or redis.call('LPOS', pending, id, 'RANK', -1, 'MAXLEN', NEAR_END)
end

-- Return whether an id is in the list. In a list longer than 2 * NEAR_END only the ends are searched, and the position
-- that the id's time suggests.
local function is_pending(pending, id, task_prefix)
  if is_near_end(pending, id) then
    return true
  end
  local length = redis.call('LLEN', pending)
  return length > 2 * NEAR_END and index_of(pending, length, id, task_prefix) ~= nil
end
