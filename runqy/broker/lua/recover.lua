#!lua flags=allow-oom
-- Retry or archive the task of a lost worker, if it is unchanged since it was read.
-- An id without a task, or one whose state names another index that lists it, is only removed. In a long pending list not
-- every id is found; `dequeue` drops the id of a task that was recovered nevertheless.
-- KEYS task active lease target processed failed processed_day failed_day runs counters
-- ARGV id task_prefix state score message seen_lease seen_token seen_cancel counters_expire_at ended_channel run_id outcome now_ns details failure
-- RETURNS 1 recovered, 2 removed, 0 it changed since it was read
-- USES counters add_to_counter release_lock append_end delete_task add_to_archive log_run add_failure in_ns remove_from_pending is_pending has_index
local task, active, lease, target = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, prefix, state = ARGV[1], string.sub(ARGV[2], 1, -3), ARGV[3]

local function is_listed_as(seen_state)
  if seen_state == 'pending' then
    return is_pending(prefix .. 'pending', id, ARGV[2])
  elseif seen_state == 'aggregating' then
    return true
  elseif has_index(seen_state) then
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
  unlink_task(task, id)
  return 2
end
if is_listed_as(seen[3]) then
  return 2
end
if state == 'archived' then
  add_to_archive(target, task, id, ARGV[4])
else
  redis.call('ZADD', target, ARGV[4], id)
end
redis.call('HSET', task, 'msg', ARGV[5], 'state', state)
redis.call('HDEL', task, 'owner', 'pending_since')
count_failure(KEYS[5], KEYS[6], KEYS[7], KEYS[8], ARGV[9])
local is_final = state == 'archived'
local ended = log_run(KEYS[9], task, id, ARGV[11], ARGV[12], is_final and '1' or '0', ARGV[13], ARGV[14])
add_failure(task, ended, ARGV[13], ARGV[15])
local attempts = tonumber(ended[3]) or 0 -- workers of other programs count none
count_outcome(KEYS[10], ARGV[12], attempts == 1 or (attempts == 0 and is_final), is_final)
if is_final then
  release_task_lock(task, id, prefix .. 'unique:')
  redis.call('PUBLISH', ARGV[10], state)
end
return 1
