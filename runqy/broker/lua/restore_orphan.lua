#!lua flags=allow-oom
-- Push a pending task that is in no list to the front of the pending list.
-- In a long list only the ends are searched. The caller has searched the rest in slices before (is_searched).
-- KEYS task pending active lease idle
-- ARGV id queue seen_since now_ms is_searched
-- RETURNS 1 restored, 0 it is listed or has changed, 2 the list is too long to search
-- USES wake in_ns remove_from_pending is_pending
local id = ARGV[1]
local seen = redis.call('HMGET', KEYS[1], 'state', 'pending_since', 'msg')
if seen[1] ~= 'pending' or (seen[2] or '') ~= ARGV[3] or not seen[3] then
  return 0
end
if redis.call('ZSCORE', KEYS[4], id) or redis.call('LPOS', KEYS[3], id) or is_near_end(KEYS[2], id) then
  return 0
end
if ARGV[5] ~= '1' and redis.call('LLEN', KEYS[2]) > 2 * NEAR_END then
  return 2
end
redis.call('RPUSH', KEYS[2], id)
wake(KEYS[5], 1, ARGV[2], tonumber(ARGV[4]))
return 1
