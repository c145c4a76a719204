#!lua flags=allow-oom
-- Forget whose registration a worker id belongs to, unless it was registered again since.
-- KEYS registrations
-- ARGV worker_id known
-- RETURNS 1 forgotten, 0 it has changed
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
return redis.call('HDEL', KEYS[1], ARGV[1])
