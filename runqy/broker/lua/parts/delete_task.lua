-- Return the keys of a task's output and chunks, see QueueKeys.
local function kept_keys(task, id)
  local prefix = 'runqy:q:' .. string.sub(task, 7, -#id - 3)
  return prefix .. 'output:' .. id, prefix .. 'chunks:' .. id
end

-- Delete a task's hash, its output and its chunks.
local function unlink_task(task, id)
  redis.call('UNLINK', task, kept_keys(task, id))
end

-- Delete a task that has ended, with its lock, unless its state names another index. An end that a foreign program made
-- may not have been told yet.
local function delete_task(task, id, state, lock_prefix)
  local seen = redis.call('HGET', task, 'state')
  if seen and seen ~= state then
    return
  end
  release_task_lock(task, id, lock_prefix)
  end_deleted(task, id)
  unlink_task(task, id)
end

