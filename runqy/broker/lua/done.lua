#!lua flags=allow-oom
-- Record the success of a task that is not kept: delete it, remember for a while who did, and tell who waits.
-- KEYS task active lease processed processed_day deleted_by lock*
-- ARGV id owner counter_expires_s remember_s ended_channel
-- RETURNS 1 deleted, 2 this owner did so before, 0 somebody else holds it
-- USES counters leave_active release_lock
local left = leave_active(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2])
if left ~= 1 then
  return redis.call('GET', KEYS[6]) == ARGV[2] and 2 or left
end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[6], ARGV[2], 'EX', ARGV[4])
count_successes(1, KEYS[4], KEYS[5], ARGV[3])
if KEYS[7] then
  release_lock(KEYS[7], ARGV[1])
end
redis.call('PUBLISH', ARGV[5], 'completed')
return 1
