#!lua flags=allow-oom
-- Drop registrations from the Redis users, except those that were stored anew since they were read.
-- KEYS users
-- ARGV fields_and_contents*
-- RETURNS how many were dropped
local dropped = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    dropped = dropped + redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return dropped
