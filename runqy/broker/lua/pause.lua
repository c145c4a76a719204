#!lua flags=allow-oom
-- Stop a queue from handing out tasks.
-- KEYS paused
-- ARGV now_s
-- RETURNS 1 paused now, 0 it was paused
return redis.call('SETNX', KEYS[1], ARGV[1])
