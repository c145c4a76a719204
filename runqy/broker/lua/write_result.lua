#!lua flags=allow-oom
-- Store an active task's intermediate result.
-- KEYS task lease
-- ARGV id lease_token result
-- RETURNS 1 stored, 0 lease lost
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[2] or not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'result', ARGV[3])
return 1
