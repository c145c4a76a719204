#!lua flags=allow-oom
-- Record a task's success and its result, keep it for its retention, and tell who waits.
-- KEYS task active lease completed processed processed_day lock*
-- ARGV id owner message expires_s counter_expires_s ended_channel now_ns result*
-- RETURNS 1 completed, 2 this owner did so before, 0 somebody else holds it
-- USES counters leave_active release_lock
local left = leave_active(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2])
if left ~= 1 then
  return left
end
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[1])
redis.call('HSET', KEYS[1], 'msg', ARGV[3], 'state', 'completed', 'completed', ARGV[7])
if ARGV[8] then
  redis.call('HSET', KEYS[1], 'result', ARGV[8])
end
count_success(KEYS[5], KEYS[6], ARGV[5])
if KEYS[7] then
  release_lock(KEYS[7], ARGV[1])
end
redis.call('PUBLISH', ARGV[6], 'completed')
return 1
