-- Release a uniqueness lock if it belongs to this task.
local function release_lock(lock, id)
  if redis.call('GET', lock) == id then
    redis.call('DEL', lock)
  end
end
