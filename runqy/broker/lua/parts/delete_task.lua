-- Delete a task's hash and its lock, unless its state says that another index than this one lists it.
local function delete_task(task, id, state, lock_prefix)
  local seen = redis.call('HMGET', task, 'state', 'unique_key')
  if seen[1] and seen[1] ~= state then
    return
  end
  if seen[2] and string.sub(seen[2], 1, #lock_prefix) == lock_prefix then
    release_lock(seen[2], id)
  end
  redis.call('UNLINK', task)
end

