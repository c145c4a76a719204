#!lua flags=allow-oom
-- Archive a task whose last run failed, and tell who waits.
-- KEYS task active lease archived processed failed processed_day failed_day
-- ARGV id owner message now_s counter_expires_s child_deaths task_prefix oldest_s most ended_channel
-- RETURNS 1 archived, 2 this owner did so before, 0 somebody else holds it
-- USES counters leave_active release_lock delete_task archive
local task, id = KEYS[1], ARGV[1]
local left = leave_active(task, KEYS[2], KEYS[3], id, ARGV[2])
if left ~= 1 then
  return left
end
if ARGV[6] ~= '0' then
  redis.call('HINCRBY', task, 'child_deaths', ARGV[6])
end
archive(KEYS[4], id, ARGV[4], ARGV[7], ARGV[8], tonumber(ARGV[9]))
redis.call('HSET', task, 'msg', ARGV[3], 'state', 'archived')
count_failure(KEYS[5], KEYS[6], KEYS[7], KEYS[8], ARGV[5])
redis.call('PUBLISH', ARGV[10], 'archived')
return 1
