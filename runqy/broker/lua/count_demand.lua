#!lua flags=no-writes,allow-stale
-- Count the tasks that a queue's workers run or could run now.
-- KEYS pending active scheduled retry paused processed
-- ARGV task_prefix now_s
-- RETURNS pending active due paused processed oldest_pending_since
local oldest = redis.call('LINDEX', KEYS[1], -1)
return {
  redis.call('LLEN', KEYS[1]),
  redis.call('LLEN', KEYS[2]),
  redis.call('ZCOUNT', KEYS[3], '-inf', ARGV[2]) + redis.call('ZCOUNT', KEYS[4], '-inf', ARGV[2]),
  redis.call('EXISTS', KEYS[5]),
  redis.call('GET', KEYS[6]) or '0',
  oldest and redis.call('HGET', ARGV[1] .. oldest, 'pending_since') or '',
}
