#!lua flags=allow-oom
-- Delete tasks that do not run, free their locks, and tell who waits.
-- `wanted` is the state that they have to be in ('': any but active). Ids without a task are dropped from its index.
-- KEYS pending scheduled retry archived completed task*
-- ARGV wanted task_prefix lock_prefix ended_prefix ids*
-- RETURNS for each 1 deleted, 0 no such task, 2 it runs, 3 it is in another state or in an aggregator's hands
-- USES release_lock leave_index
local indexes = {pending = KEYS[1], scheduled = KEYS[2], retry = KEYS[3], archived = KEYS[4], completed = KEYS[5]}
local wanted, outcomes = ARGV[1], {}
for i = 1, #KEYS - 5 do
  local task, id = KEYS[i + 5], ARGV[i + 4]
  local state = redis.call('HGET', task, 'state')
  if not state then
    leave_index(indexes, task, id, wanted, ARGV[2])
    redis.call('UNLINK', task) -- a remnant without a state would block its id for ever
    outcomes[i] = 0
  elseif state == 'active' then
    outcomes[i] = 2
  elseif (wanted ~= '' and state ~= wanted) or not leave_index(indexes, task, id, state, ARGV[2]) then
    outcomes[i] = 3
  else
    release_lock_of(task, id, ARGV[3])
    redis.call('UNLINK', task)
    if state ~= 'archived' and state ~= 'completed' then
      redis.call('PUBLISH', ARGV[4] .. id, 'deleted')
    end
    outcomes[i] = 1
  end
  if wanted ~= '' and outcomes[i] > 1 then
    leave_index(indexes, task, id, wanted, ARGV[2]) -- the index was wrong about it
  end
end
return outcomes
