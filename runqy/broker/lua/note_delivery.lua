#!lua flags=allow-oom
-- Note that a worker is handed out secrets, unless as many notes wait already as may.
-- KEYS deliveries
-- ARGV most content
-- RETURNS 1 noted, 0 there is no room
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  return 0
end
redis.call('XADD', KEYS[1], '*', 'content', ARGV[2])
return 1
