#!lua flags=allow-oom
-- Archive tasks that wait: they will not run, keep what they are, and whoever waits is told.
-- `wanted` is the state that they have to be in ('': any in which a task waits). Ids without a task are dropped from its index.
-- KEYS pending scheduled retry archived task*
-- ARGV wanted task_prefix now_s oldest_s most ended_prefix ids*
-- RETURNS for each 1 archived, 0 no such task, 2 it runs, 3 it is in another state or in an aggregator's hands, 4 it was archived
-- USES release_lock delete_task archive leave_index
local indexes = {pending = KEYS[1], scheduled = KEYS[2], retry = KEYS[3]}
local wanted, outcomes = ARGV[1], {}
for i = 1, #KEYS - 4 do
  local task, id = KEYS[i + 4], ARGV[i + 6]
  local state = redis.call('HGET', task, 'state')
  if not state then
    leave_index(indexes, task, id, wanted, ARGV[2])
    outcomes[i] = 0
  elseif state == 'active' then
    outcomes[i] = 2
  elseif state == 'archived' then
    outcomes[i] = 4
  elseif state == 'completed' or (wanted ~= '' and state ~= wanted)
    or not leave_index(indexes, task, id, state, ARGV[2]) then
    outcomes[i] = 3
  else
    redis.call('HSET', task, 'state', 'archived')
    redis.call('HDEL', task, 'pending_since')
    archive(KEYS[4], id, ARGV[3], ARGV[2], ARGV[4], tonumber(ARGV[5]))
    redis.call('PUBLISH', ARGV[6] .. id, 'archived')
    outcomes[i] = 1
  end
  if wanted ~= '' and outcomes[i] > 1 then
    leave_index(indexes, task, id, wanted, ARGV[2]) -- the index was wrong about it
  end
end
return outcomes
