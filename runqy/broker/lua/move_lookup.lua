#!lua flags=allow-oom
-- Have an index entry name the Redis queue that its task was moved to, unless it names a third one.
-- KEYS lookup
-- ARGV source destination
-- RETURNS 1 changed, 0 it names another queue
local seen = redis.call('HGET', KEYS[1], 'queue')
if seen and seen ~= ARGV[1] and seen ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'queue', ARGV[2])
return 1
