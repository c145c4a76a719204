#!lua flags=allow-oom
-- Store what a running task has to show so far.
-- KEYS task lease
-- ARGV id owner result
-- RETURNS 1 stored, 0 somebody else holds it
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[2] or not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'result', ARGV[3])
return 1
