#!lua flags=allow-oom
-- Remove expired entries in asynq's own form; bare ids belong to Go's runqy-worker.
-- KEYS workers
-- ARGV until_s prefix
-- RETURNS how many were removed
local dropped = 0
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, 500)) do
  if string.sub(member, 1, #ARGV[2]) == ARGV[2] then
    dropped = dropped + redis.call('ZREM', KEYS[1], member)
  end
end
return dropped
