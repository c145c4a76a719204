#!lua flags=allow-oom
-- Put a task whose run failed among those that are tried again, or archive it if somebody cancelled it.
-- KEYS task active lease retry archived processed failed processed_day failed_day
-- ARGV id owner message cancellation retry_at_s now_s counter_expires_s is_failure child_deaths task_prefix oldest_s most ended_channel
-- RETURNS 1 waits for its retry, 2 archived as cancelled, 0 somebody else holds it
-- USES counters leave_active release_lock delete_task archive
local task, id = KEYS[1], ARGV[1]
local left = leave_active(task, KEYS[2], KEYS[3], id, ARGV[2])
if left ~= 1 then
  return left == 2 and redis.call('HGET', task, 'state') ~= 'archived' and 1 or left
end
local is_canceled = redis.call('HEXISTS', task, 'cancel') == 1
if ARGV[9] ~= '0' then
  redis.call('HINCRBY', task, 'child_deaths', ARGV[9])
end
if is_canceled or ARGV[8] == '1' then
  count_failure(KEYS[6], KEYS[7], KEYS[8], KEYS[9], ARGV[7])
end
if not is_canceled then
  redis.call('ZADD', KEYS[4], ARGV[5], id)
  redis.call('HSET', task, 'msg', ARGV[3], 'state', 'retry')
  return 1
end
archive(KEYS[5], id, ARGV[6], ARGV[10], ARGV[11], tonumber(ARGV[12]))
redis.call('HSET', task, 'msg', ARGV[3] .. ARGV[4], 'state', 'archived')
redis.call('PUBLISH', ARGV[13], 'archived')
return 2
