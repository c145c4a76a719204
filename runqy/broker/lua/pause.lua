#!lua flags=allow-oom
-- Stop a queue from handing out tasks, and note who did; a queue that is paused stays as it is.
-- KEYS paused pause_note
-- ARGV now_s by
-- RETURNS 1 paused now, 0 it was paused
if redis.call('SETNX', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[2], 'since', ARGV[1], 'by', ARGV[2])
return 1
