#!lua flags=no-writes,allow-stale
-- Count a queue's tasks by state, and read its counters.
-- KEYS pending active scheduled retry archived completed groups paused processed_day failed_day processed failed ends
-- ARGV task_prefix group_prefix
-- RETURNS pending active scheduled retry archived completed aggregating paused, the four counters, oldest pending_since, length of ends
local aggregating = 0
for _, group in ipairs(redis.call('SMEMBERS', KEYS[7])) do
  aggregating = aggregating + redis.call('ZCARD', ARGV[2] .. group)
end
local oldest = redis.call('LINDEX', KEYS[1], -1)
local counts = {redis.call('LLEN', KEYS[1]), redis.call('LLEN', KEYS[2])}
for i = 3, 6 do
  counts[i] = redis.call('ZCARD', KEYS[i])
end
counts[7] = aggregating
counts[8] = redis.call('EXISTS', KEYS[8])
for i = 9, 12 do
  counts[i] = redis.call('GET', KEYS[i]) or '0'
end
counts[13] = oldest and redis.call('HGET', ARGV[1] .. oldest, 'pending_since') or ''
local ends = redis.pcall('XLEN', KEYS[13])
counts[14] = type(ends) == 'number' and ends or 0
return counts
