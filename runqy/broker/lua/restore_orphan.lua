#!lua flags=allow-oom
-- Put a task that says it is pending, but stands in no list, to the front of the pending list.
-- KEYS task pending active lease idle
-- ARGV id queue seen_since now_ms
-- RETURNS 1 restored, 0 it is listed or changed
-- USES wake
local id = ARGV[1]
local seen = redis.call('HMGET', KEYS[1], 'state', 'pending_since', 'msg')
if seen[1] ~= 'pending' or (seen[2] or '') ~= ARGV[3] or not seen[3] then
  return 0
end
if redis.call('ZSCORE', KEYS[4], id) or redis.call('LPOS', KEYS[2], id) or redis.call('LPOS', KEYS[3], id) then
  return 0
end
redis.call('RPUSH', KEYS[2], id)
wake(KEYS[5], 1, ARGV[2], tonumber(ARGV[4]))
return 1
