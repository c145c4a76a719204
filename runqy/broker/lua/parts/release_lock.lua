-- Release a uniqueness lock if it belongs to this task. A key of another type, which only a worker can create, is kept.
local function release_lock(lock, id)
  if redis.pcall('GET', lock) == id then
    redis.call('DEL', lock)
  end
end

-- Release the lock that a task's hash names, unless it is not one of its queue's keys.
local function release_task_lock(task, id, lock_prefix)
  local lock = redis.call('HGET', task, 'unique_key')
  if lock and string.sub(lock, 1, #lock_prefix) == lock_prefix then
    release_lock(lock, id)
  end
end
