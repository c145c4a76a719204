#!lua flags=allow-oom
-- Delete a uniqueness lock without an expiry whose task is gone.
-- KEYS lock
-- ARGV task_prefix
-- RETURNS 1 deleted, 0 kept
local holder = redis.call('TTL', KEYS[1]) == -1 and redis.pcall('GET', KEYS[1])
if type(holder) == 'string' and redis.call('EXISTS', ARGV[1] .. holder) == 0 then
  return redis.call('DEL', KEYS[1])
end
return 0
