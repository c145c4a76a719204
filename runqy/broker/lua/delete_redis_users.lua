#!lua flags=allow-oom
-- Delete stored registrations or instances, except those that were stored again since they were read.
-- KEYS stored
-- ARGV fields_and_contents*
-- RETURNS how many were deleted
local dropped = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    dropped = dropped + redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return dropped
