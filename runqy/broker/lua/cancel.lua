#!lua flags=allow-oom
-- Cancel a task: archive a waiting one, mark an active one and notify its worker.
-- `wanted` is the state that the task must be in ('': any that allows it).
-- Lease tokens that begin with `@` name the worker's process, which gets token, queue and id on a channel of its own.
-- Others get the id, as from asynq's tools. `runqy:changed` says before that only a marked task is meant.
-- A worker of another program may ignore it: the task's id is stored for enforce_cancellations.lua.
-- KEYS task pending scheduled retry archived runs counters cancellations
-- ARGV id wanted now_ns now_s cancellation task_prefix oldest_s max_archived ended_channel cancel_channel details queue changed_channel own_channel*
-- RETURNS 1 archived, 2 worker notified, 3 already finished, 4 cannot be cancelled in its state, or not in `wanted`,
--   0 no such task, 5 worker of another program notified
-- USES release_lock append_end delete_task add_to_archive archive log_run add_to_counter log_waiting_task archive_canceled in_ns remove_from_pending
local task, id = KEYS[1], ARGV[1]
local seen = redis.call('HMGET', task, 'msg', 'state', 'cancel', 'group', 'pending_since', 'owner')
local message, state = seen[1], seen[2]
if not message then
  return 0
end
if ARGV[2] ~= '' and state ~= ARGV[2] then
  return 4
end
if state == 'active' then
  if not seen[3] or not is_canceled(task, seen[3]) then
    redis.call('HSET', task, 'cancel', ARGV[3])
  end
  local process = seen[6] and string.match(seen[6], '^@(.*):')
  if process then
    redis.call('PUBLISH', ARGV[14] .. process .. ARGV[15], seen[6] .. ' ' .. ARGV[12] .. ' ' .. id)
    return 2
  end
  redis.call('PUBLISH', ARGV[13], 'cancel ' .. id)
  redis.call('PUBLISH', ARGV[10], id)
  if seen[6] then
    return 2
  end
  redis.call('SADD', KEYS[8], id)
  return 5
end
if state == 'completed' or state == 'archived' then
  return state == 'archived' and seen[3] and 1 or 3
end
local removed = 0
if state == 'pending' then
  removed = remove_from_pending(KEYS[2], id, ARGV[6])
elseif state == 'scheduled' then
  removed = redis.call('ZREM', KEYS[3], id)
elseif state == 'retry' then
  removed = redis.call('ZREM', KEYS[4], id)
elseif state == 'aggregating' and seen[4] then
  local base = string.sub(ARGV[6], 1, -3)
  local group = base .. 'g:' .. seen[4]
  removed = redis.call('ZREM', group, id)
  if removed == 1 and redis.call('EXISTS', group) == 0 then
    redis.call('SREM', base .. 'groups', seen[4])
  end
end
if removed == 0 and state ~= 'pending' then
  return 4
end
archive(KEYS[5], id, ARGV[4], ARGV[6], ARGV[7], tonumber(ARGV[8]))
redis.call('HSET', task, 'msg', message .. ARGV[5], 'state', 'archived', 'cancel', ARGV[3])
redis.call('HDEL', task, 'pending_since')
log_waiting_task(KEYS[6], KEYS[7], task, id, 'cancel-' .. ARGV[3], 'canceled', ARGV[3], seen[5], ARGV[11])
redis.call('PUBLISH', ARGV[9], 'archived')
return 1
