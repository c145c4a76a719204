#!lua flags=allow-oom
-- Archive waiting tasks without changing their messages, and notify waiting clients.
-- `wanted` is the state that the tasks must be in ('': any waiting state). Ids without a task are removed from its index.
-- KEYS pending scheduled retry archived task*
-- ARGV wanted task_prefix now_s oldest_s max_archived ended_prefix details ids*
-- RETURNS for each 1 archived, 0 no such task, 2 active, 3 in another state or held by an aggregator, 4 already archived
-- USES in_ns remove_from_pending release_lock append_end delete_task add_to_archive archive remove_from_index
local indexes = {pending = KEYS[1], scheduled = KEYS[2], retry = KEYS[3]}
local wanted, outcomes = ARGV[1], {}
for i = 1, #KEYS - 4 do
  local task, id = KEYS[i + 4], ARGV[i + 7]
  local seen = redis.call('HMGET', task, 'state', 'notify', 'attempts')
  local state = seen[1]
  if not state then
    remove_from_index(indexes, task, id, wanted, ARGV[2])
    outcomes[i] = 0
  elseif state == 'active' then
    outcomes[i] = 2
  elseif state == 'archived' then
    outcomes[i] = 4
  elseif state == 'completed' or (wanted ~= '' and state ~= wanted)
    or not remove_from_index(indexes, task, id, state, ARGV[2]) then
    outcomes[i] = 3
  else
    redis.call('HSET', task, 'state', 'archived')
    redis.call('HDEL', task, 'pending_since')
    archive(KEYS[4], id, ARGV[3], ARGV[2], ARGV[4], tonumber(ARGV[5]))
    if seen[2] then
      append_end(task, id, seen[2], nil, 'archived', nil, seen[3], ARGV[7])
    end
    redis.call('PUBLISH', ARGV[6] .. id, 'archived')
    outcomes[i] = 1
  end
  if wanted ~= '' and outcomes[i] > 1 then
    remove_from_index(indexes, task, id, wanted, ARGV[2]) -- the index was wrong
  end
end
return outcomes
