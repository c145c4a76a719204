#!lua flags=allow-oom
-- Move scheduled tasks to `retry`, where they are due at the same time: Go's runqy-worker never looks into `scheduled`.
-- Ids without a task are removed from `scheduled`.
-- KEYS pending scheduled retry archived task*
-- ARGV wanted task_prefix ids*
-- RETURNS for each 1 moved, 0 no such task, 3 in another state
local outcomes = {}
for i = 1, #KEYS - 4 do
  local task, id = KEYS[i + 4], ARGV[i + 2]
  local state, due_s = redis.call('HGET', task, 'state'), redis.call('ZSCORE', KEYS[2], id)
  redis.call('ZREM', KEYS[2], id)
  outcomes[i] = state and 3 or 0
  if due_s and state == ARGV[1] then
    redis.call('ZADD', KEYS[3], due_s, id)
    redis.call('HSET', task, 'state', 'retry')
    outcomes[i] = 1
  end
end
return outcomes
