#!lua flags=allow-oom
-- Take a task away from a worker that was lost, if it is still held as it was seen, and retry or archive it.
-- An id without a task, or one whose state names another index that lists it, is only dropped.
-- KEYS task active lease target processed failed processed_day failed_day
-- ARGV id task_prefix state score message seen_lease seen_owner seen_cancel counters_expire_at ended_channel
-- RETURNS 1 recovered, 2 dropped, 0 it changed since it was seen
-- USES counters release_lock
local task, active, lease, target = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, prefix, state = ARGV[1], string.sub(ARGV[2], 1, -3), ARGV[3]

local function is_listed_as(seen_state)
  if seen_state == 'pending' then
    return redis.call('LPOS', prefix .. 'pending', id)
  elseif seen_state == 'aggregating' then
    return true
  elseif seen_state == 'scheduled' or seen_state == 'retry' or seen_state == 'archived' or seen_state == 'completed' then
    return redis.call('ZSCORE', prefix .. seen_state, id)
  end
  return false
end

local seen = redis.call('HMGET', task, 'owner', 'cancel', 'state')
local score = redis.call('ZSCORE', lease, id) or ''
if score ~= ARGV[6] or (seen[1] or '') ~= ARGV[7] or (seen[2] or '') ~= ARGV[8] then
  return 0
end
if redis.call('LREM', active, 0, id) + redis.call('ZREM', lease, id) == 0 then
  return 0
end
if redis.call('HEXISTS', task, 'msg') == 0 then
  redis.call('UNLINK', task)
  return 2
end
if is_listed_as(seen[3]) then
  return 2
end
redis.call('ZADD', target, ARGV[4], id)
redis.call('HSET', task, 'msg', ARGV[5], 'state', state)
redis.call('HDEL', task, 'owner', 'pending_since')
count_failure(KEYS[5], KEYS[6], KEYS[7], KEYS[8], ARGV[9])
if state == 'archived' then
  release_lock_of(task, id, prefix .. 'unique:')
  redis.call('PUBLISH', ARGV[10], state)
end
return 1
