#!lua flags=allow-oom
-- Store a registration of a Redis user. Allowed when Redis is full, because workers drain it.
-- KEYS users instances
-- ARGV field content instance owner now_ns
-- RETURNS 1 stored, 0 the worker process registered with another key
local known = redis.call('HGET', KEYS[2], ARGV[3])
local owner = ARGV[4] .. ' '
if known and string.sub(known, 1, #owner) ~= owner then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[3], owner .. ARGV[5])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
