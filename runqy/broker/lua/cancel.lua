#!lua flags=allow-oom
-- Cancel a task: one that waits is archived, one that runs is marked and its worker told.
-- KEYS task pending scheduled retry archived
-- ARGV id now_ns now_s cancellation task_prefix oldest_s most ended_channel cancel_channel
-- RETURNS 1 archived, 2 its worker was told, 3 it is over, 4 it is where nothing can be cancelled, 0 no such task
-- USES release_lock delete_task archive
local task, id = KEYS[1], ARGV[1]
local seen = redis.call('HMGET', task, 'msg', 'state', 'cancel', 'group')
local message, state = seen[1], seen[2]
if not message then
  return 0
end
if state == 'active' then
  if not seen[3] then
    redis.call('HSET', task, 'cancel', ARGV[2])
  end
  redis.call('PUBLISH', ARGV[9], id)
  return 2
end
if state == 'completed' or state == 'archived' then
  return state == 'archived' and seen[3] and 1 or 3
end
local removed = 0
if state == 'pending' then
  removed = redis.call('LREM', KEYS[2], 0, id)
elseif state == 'scheduled' then
  removed = redis.call('ZREM', KEYS[3], id)
elseif state == 'retry' then
  removed = redis.call('ZREM', KEYS[4], id)
elseif state == 'aggregating' and seen[4] then
  local base = string.sub(ARGV[5], 1, -3)
  local group = base .. 'g:' .. seen[4]
  removed = redis.call('ZREM', group, id)
  if removed == 1 and redis.call('EXISTS', group) == 0 then
    redis.call('SREM', base .. 'groups', seen[4])
  end
end
if removed == 0 and state ~= 'pending' then
  return 4
end
archive(KEYS[5], id, ARGV[3], ARGV[5], ARGV[6], tonumber(ARGV[7]))
redis.call('HSET', task, 'msg', message .. ARGV[4], 'state', 'archived', 'cancel', ARGV[2])
redis.call('HDEL', task, 'pending_since')
redis.call('PUBLISH', ARGV[8], 'archived')
return 1
