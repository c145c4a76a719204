#!lua flags=allow-oom
-- Archive a task whose last run failed, or that expired before it was started, and notify waiting clients.
-- KEYS task active lease archived processed failed processed_day failed_day runs
-- ARGV id lease_token message now_s counter_expires_s child_deaths task_prefix oldest_s max_archived ended_channel outcome now_ns details failure
-- RETURNS 1 archived, 2 already archived with this token, 0 lease lost
-- USES counters remove_from_active release_lock append_end delete_task add_to_archive archive log_run add_failure
local task, id = KEYS[1], ARGV[1]
local is_answer = ARGV[6] == '0' and ARGV[11] == 'failed'
local left, seen = remove_from_active(task, KEYS[2], KEYS[3], id, ARGV[2], is_answer)
if left ~= 1 then
  return left
end
if ARGV[6] ~= '0' then
  redis.call('HINCRBY', task, 'child_deaths', ARGV[6])
end
archive(KEYS[4], id, ARGV[4], ARGV[7], ARGV[8], tonumber(ARGV[9]))
redis.call('HSET', task, 'msg', ARGV[3], 'state', 'archived')
local is_final = '1'
if ARGV[11] == 'expired' then -- its dequeue was no attempt
  local attempts = math.max((tonumber(seen[3]) or 1) - 1, 0)
  redis.call('HSET', task, 'attempts', attempts)
  redis.call('HDEL', task, 'started', 'worker')
  is_final, seen = '2', {'', '', attempts, seen[4], seen[5], '', '', seen[8]}
else
  count_failure(KEYS[5], KEYS[6], KEYS[7], KEYS[8], ARGV[5])
  add_failure(task, seen, ARGV[12], ARGV[14])
end
append_run(KEYS[9], task, id, ARGV[2], ARGV[11], is_final, ARGV[12], ARGV[13], seen)
redis.call('PUBLISH', ARGV[10], 'archived')
return 1
