-- Delete a task's hash and its lock, unless its state says that another index than this one lists it.
local function delete_task(task, id, state, lock_prefix)
  local seen = redis.call('HGET', task, 'state')
  if seen and seen ~= state then
    return
  end
  release_lock_of(task, id, lock_prefix)
  redis.call('UNLINK', task)
end

