#!lua
-- Store an idempotency record with its time to live, unless there is one.
-- KEYS record
-- ARGV ttl_ms fields*
-- RETURNS 1 stored, 0 there is one
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
