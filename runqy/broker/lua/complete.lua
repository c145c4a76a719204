#!lua flags=allow-oom
-- Record the success of tasks of one queue with their results, keep them for their retention, and notify waiting clients.
-- Each task has two keys: its hash, and its lock or its hash again; and eight arguments: id, lease_token,
-- message, expires_s, ended_channel, has_result, result and details.
-- KEYS active lease completed processed processed_day runs task_and_lock*
-- ARGV now_ns counter_expires_s tasks*
-- RETURNS for each task 1 completed, 2 already completed with this token, 0 lease lost
-- USES counters remove_from_active release_lock append_end log_run
local now_ns, replies, completed = ARGV[1], {}, 0
for position = 1, (#KEYS - 6) / 2 do
  local task, lock, at = KEYS[5 + 2 * position], KEYS[6 + 2 * position], 8 * position - 5
  local id, lease_token, message, expires_s, ended_channel = unpack(ARGV, at, at + 4)
  local left, seen = remove_from_active(task, KEYS[1], KEYS[2], id, lease_token, true)
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
    append_run(KEYS[6], task, id, lease_token, 'completed', '1', now_ns, ARGV[at + 7], seen)
    redis.call('PUBLISH', ended_channel, 'completed')
    completed = completed + 1
  end
  replies[position] = left
end
if completed > 0 then
  count_successes(completed, KEYS[4], KEYS[5], ARGV[2])
end
return replies
