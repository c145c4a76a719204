#!lua flags=allow-oom
-- Add a task whose run failed to the retry set, or archive it if its cancellation was requested.
-- KEYS task active lease retry archived processed failed processed_day failed_day runs
-- ARGV id lease_token message cancellation retry_at_s now_s counter_expires_s is_failure child_deaths task_prefix oldest_s max_archived ended_channel outcome now_ns details failure
-- RETURNS 1 will be retried, 2 archived as cancelled, 0 lease lost
-- USES counters remove_from_active release_lock append_end delete_task add_to_archive archive log_run add_failure
local task, id = KEYS[1], ARGV[1]
local is_answer = ARGV[9] == '0' and ARGV[14] == 'retried'
local left, seen = remove_from_active(task, KEYS[2], KEYS[3], id, ARGV[2], is_answer)
if left ~= 1 then
  return left == 2 and redis.call('HGET', task, 'state') ~= 'archived' and 1 or left
end
local is_canceled = redis.call('HEXISTS', task, 'cancel') == 1
add_failure(task, seen, ARGV[15], ARGV[17])
if ARGV[9] ~= '0' then
  redis.call('HINCRBY', task, 'child_deaths', ARGV[9])
end
if is_canceled or ARGV[8] == '1' then
  count_failure(KEYS[6], KEYS[7], KEYS[8], KEYS[9], ARGV[7])
end
if not is_canceled then
  redis.call('ZADD', KEYS[4], ARGV[5], id)
  redis.call('HSET', task, 'msg', ARGV[3], 'state', 'retry')
  append_run(KEYS[10], task, id, ARGV[2], ARGV[14], '0', ARGV[15], ARGV[16], seen)
  return 1
end
archive(KEYS[5], id, ARGV[6], ARGV[10], ARGV[11], tonumber(ARGV[12]))
redis.call('HSET', task, 'msg', ARGV[3] .. ARGV[4], 'state', 'archived')
append_run(KEYS[10], task, id, ARGV[2], 'canceled', '1', ARGV[15], ARGV[16], seen)
redis.call('PUBLISH', ARGV[13], 'archived')
return 2
