#!lua flags=allow-oom
-- Delete a successful task without retention, remember its token and time of enqueue, and notify waiting clients.
-- KEYS task active lease processed processed_day deleted_by runs lock*
-- ARGV id lease_token counter_expires_s remember_s ended_channel now_ns details result
--   result: '' unless the task's end is told with it
-- RETURNS 1 deleted, 2 already deleted with this token, 0 lease lost
-- USES counters remove_from_active release_lock append_end delete_task log_run
local left, seen = remove_from_active(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2])
if left ~= 1 then
  local deleted = redis.call('GET', KEYS[6])
  return deleted and string.sub(deleted, 1, #ARGV[2] + 1) == ARGV[2] .. ' ' and 2 or left
end
append_run(KEYS[7], KEYS[1], ARGV[1], ARGV[2], 'completed', '1', ARGV[6], ARGV[7], seen, ARGV[8] ~= '' and ARGV[8] or nil)
unlink_task(KEYS[1], ARGV[1])
redis.call('SET', KEYS[6], ARGV[2] .. ' ' .. (seen[4] or ''), 'EX', ARGV[4])
count_successes(1, KEYS[4], KEYS[5], ARGV[3])
if KEYS[8] then
  release_lock(KEYS[8], ARGV[1])
end
redis.call('PUBLISH', ARGV[5], 'completed')
return 1
