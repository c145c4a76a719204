#!lua flags=allow-oom
-- Pause a queue and record by whom; a paused queue is not changed.
-- KEYS paused pause_details
-- ARGV now_s by
-- RETURNS 1 paused, 0 it was paused before
if redis.call('SETNX', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[2], 'since', ARGV[1], 'by', ARGV[2])
return 1
