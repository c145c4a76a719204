#!lua flags=allow-oom
-- Append the end that a foreign program made, if its task is unchanged since it was read.
-- KEYS task
-- ARGV id state seen_ended end_id outcome ended_ns attempt details told_until
--   told_until: what the task remembers as `ended`, not before what `find_untold_ends` takes for the time of the end
-- RETURNS 1 appended, 0 it has changed
-- USES append_end
local seen = redis.call('HMGET', KEYS[1], 'state', 'notify', 'ended')
if seen[1] ~= ARGV[2] or not seen[2] or (seen[3] or '') ~= ARGV[3] then
  return 0
end
append_end(KEYS[1], ARGV[1], seen[2], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8])
redis.call('HSET', KEYS[1], 'ended', ARGV[9])
return 1
