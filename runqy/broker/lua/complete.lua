#!lua flags=allow-oom
-- Record the success of tasks of one queue with their results, keep them for their retention, and notify who waits.
-- For each task two keys: its hash, and its lock, or its hash again if it has none; and seven arguments: id, owner,
-- message, expires_s, ended_channel, has_result and result.
-- KEYS active lease completed processed processed_day task_and_lock*
-- ARGV now_ns counter_expires_s tasks*
-- RETURNS for each task 1 completed, 2 this owner did so before, 0 another worker holds it
-- USES counters leave_active release_lock
local now_ns, replies, completed = ARGV[1], {}, 0
for position = 1, (#KEYS - 5) / 2 do
  local task, lock, at = KEYS[4 + 2 * position], KEYS[5 + 2 * position], 7 * position - 4
  local id, owner, message, expires_s, ended_channel = unpack(ARGV, at, at + 4)
  local left = leave_active(task, KEYS[1], KEYS[2], id, owner)
  if left == 1 then
    redis.call('ZADD', KEYS[3], expires_s, id)
    if ARGV[at + 5] == '1' then
      redis.call('HSET', task, 'msg', message, 'state', 'completed', 'completed', now_ns, 'result', ARGV[at + 6])
    else
      redis.call('HSET', task, 'msg', message, 'state', 'completed', 'completed', now_ns)
    end
    if lock ~= task then
      release_lock(lock, id)
    end
    redis.call('PUBLISH', ended_channel, 'completed')
    completed = completed + 1
  end
  replies[position] = left
end
if completed > 0 then
  count_successes(completed, KEYS[4], KEYS[5], ARGV[2])
end
return replies
