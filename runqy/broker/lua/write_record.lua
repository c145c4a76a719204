#!lua flags=allow-oom
-- Store a process's record until it expires.
-- KEYS record
-- ARGV content ttl_s
-- RETURNS nothing
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return false
