#!lua flags=allow-oom
-- Delete tasks that are in no index, while their queue is being deleted. A task of the wrong type, which only a worker can
-- create, is deleted too.
-- KEYS ends
-- ARGV task_prefix ids*
-- RETURNS how many were deleted
-- USES append_end delete_task
local deleted = 0
for i = 2, #ARGV do
  local task = ARGV[1] .. ARGV[i]
  if redis.call('TYPE', task).ok == 'hash' then
    end_deleted(task, ARGV[i])
  end
  deleted = deleted + redis.call('EXISTS', task)
  unlink_task(task, ARGV[i])
end
return deleted
