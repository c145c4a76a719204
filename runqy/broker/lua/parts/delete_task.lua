-- Return the key of a task's output, see QueueKeys.output.
local function output_key(task, id)
  return 'runqy:q:' .. string.sub(task, 7, -#id - 3) .. 'output:' .. id
end

-- Delete a task's hash and its output.
local function unlink_task(task, id)
  redis.call('UNLINK', task, output_key(task, id))
end

-- Delete a task with its lock, unless its state names another index.
local function delete_task(task, id, state, lock_prefix)
  local seen = redis.call('HGET', task, 'state')
  if seen and seen ~= state then
    return
  end
  release_task_lock(task, id, lock_prefix)
  unlink_task(task, id)
end

