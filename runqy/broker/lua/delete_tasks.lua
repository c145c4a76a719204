#!lua flags=allow-oom
-- Delete tasks that are not active, release their locks, and notify waiting clients.
-- `wanted` is the state that the tasks must be in ('': any but active). Ids without a task are removed from its index.
-- KEYS pending scheduled retry archived completed task*
-- ARGV wanted task_prefix lock_prefix ended_prefix ids*
-- RETURNS for each 1 deleted, 0 no such task, 2 active, 3 in another state or held by an aggregator
-- USES in_ns remove_from_pending release_lock append_end delete_task remove_from_index
local indexes = {pending = KEYS[1], scheduled = KEYS[2], retry = KEYS[3], archived = KEYS[4], completed = KEYS[5]}
local wanted, outcomes = ARGV[1], {}
for i = 1, #KEYS - 5 do
  local task, id = KEYS[i + 5], ARGV[i + 4]
  local state = redis.call('HGET', task, 'state')
  if not state then
    remove_from_index(indexes, task, id, wanted, ARGV[2])
    unlink_task(task, id) -- a hash without a state would block its id forever
    outcomes[i] = 0
  elseif state == 'active' then
    outcomes[i] = 2
  elseif (wanted ~= '' and state ~= wanted) or not remove_from_index(indexes, task, id, state, ARGV[2]) then
    outcomes[i] = 3
  else
    release_task_lock(task, id, ARGV[3])
    end_deleted(task, id)
    unlink_task(task, id)
    if state ~= 'archived' and state ~= 'completed' then
      redis.call('PUBLISH', ARGV[4] .. id, 'deleted')
    end
    outcomes[i] = 1
  end
  if wanted ~= '' and outcomes[i] > 1 then
    remove_from_index(indexes, task, id, wanted, ARGV[2]) -- the index was wrong
  end
end
return outcomes
