#!lua flags=allow-oom
-- Extend the leases of tasks that are still held with their tokens.
-- KEYS lease task*
-- ARGV lease_end_s id_and_token*
-- RETURNS for each task 1 extended, 2 extended and its cancellation was requested, 0 lease lost
local outcomes = {}
for i = 1, #KEYS - 1 do
  local id, seen = ARGV[i * 2], redis.call('HMGET', KEYS[i + 1], 'owner', 'cancel')
  outcomes[i] = 0
  if seen[1] == ARGV[i * 2 + 1] and redis.call('ZSCORE', KEYS[1], id) then
    redis.call('ZADD', KEYS[1], 'XX', ARGV[1], id)
    outcomes[i] = seen[2] and 2 or 1
  end
end
return outcomes
