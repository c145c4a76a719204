#!lua flags=allow-oom
-- Return a task to the front of its queue without spending a retry, or archive it if its cancellation was requested.
-- KEYS task active lease pending idle archived processed failed processed_day failed_day runs
-- ARGV id lease_token queue now_ns now_ms now_s cancellation counter_expires_s task_prefix oldest_s max_archived ended_channel shared_deaths details
-- RETURNS 1 pending at the front, 2 archived as cancelled, 0 lease lost
-- USES counters remove_from_active release_lock append_end delete_task add_to_archive archive wake log_run
local task, id = KEYS[1], ARGV[1]
local left, seen = remove_from_active(task, KEYS[2], KEYS[3], id, ARGV[2])
if left ~= 1 then
  return left == 2 and redis.call('HGET', task, 'state') ~= 'archived' and 1 or left
end
if (tonumber(redis.call('HGET', task, 'attempts')) or 0) > 0 then
  redis.call('HINCRBY', task, 'attempts', -1)
end
if ARGV[13] ~= '0' then
  redis.call('HINCRBY', task, 'shared_deaths', ARGV[13])
end
if redis.call('HEXISTS', task, 'cancel') == 0 then
  redis.call('RPUSH', KEYS[4], id)
  redis.call('HSET', task, 'state', 'pending', 'pending_since', ARGV[4])
  wake(KEYS[5], 1, ARGV[3], tonumber(ARGV[5]))
  return 1
end
archive(KEYS[6], id, ARGV[6], ARGV[9], ARGV[10], tonumber(ARGV[11]))
redis.call('HSET', task, 'msg', redis.call('HGET', task, 'msg') .. ARGV[7], 'state', 'archived')
count_failure(KEYS[7], KEYS[8], KEYS[9], KEYS[10], ARGV[8])
append_run(KEYS[11], task, id, ARGV[2], 'canceled', '1', ARGV[4], ARGV[14], seen)
redis.call('PUBLISH', ARGV[12], 'archived')
return 2
