#!lua flags=allow-oom
-- Record that a worker receives secrets, unless the buffer is full.
-- KEYS deliveries
-- ARGV limit content
-- RETURNS 1 recorded, 0 the buffer is full
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  return 0
end
redis.call('XADD', KEYS[1], '*', 'content', ARGV[2])
return 1
