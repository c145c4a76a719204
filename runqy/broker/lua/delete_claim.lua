#!lua flags=allow-oom
-- Delete the claim to a worker id, unless it has changed since it was read.
-- KEYS registrations
-- ARGV worker_id known
-- RETURNS 1 deleted, 0 it has changed
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
return redis.call('HDEL', KEYS[1], ARGV[1])
