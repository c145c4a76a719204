#!lua flags=allow-oom
-- Move due tasks to the tail of the pending list, asynq's grouped ones back to their group.
-- Ids without a task, and ids whose state names another index, are removed. A task whose cancellation was requested is
-- archived.
-- KEYS source pending groups idle
-- ARGV state queue task_prefix group_prefix now_s now_ns limit cancellation ended_prefix
-- RETURNS how many ids left the source
-- USES wake release_lock append_end delete_task add_to_archive log_run add_to_counter log_waiting_task archive_canceled
local state, queue, task_prefix, group_prefix, now_s, now_ns = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local due = redis.call('ZRANGE', KEYS[1], '-inf', now_s, 'BYSCORE', 'LIMIT', 0, ARGV[7])
local moved = 0
for _, id in ipairs(due) do
  local task = task_prefix .. id
  local seen = redis.call('HMGET', task, 'state', 'group', 'cancel')
  redis.call('ZREM', KEYS[1], id)
  if not seen[1] then
    unlink_task(task, id) -- a hash without a state would block its id forever
  elseif seen[1] == state and seen[3] and is_canceled(task, seen[3]) then
    archive_canceled(task, id, string.sub(task_prefix, 1, -3), now_s, ARGV[8], ARGV[9])
  elseif seen[1] == state and seen[2] and seen[2] ~= '' then
    redis.call('ZADD', group_prefix .. seen[2], now_s, id)
    redis.call('SADD', KEYS[3], seen[2])
    redis.call('HSET', task, 'state', 'aggregating')
  elseif seen[1] == state then
    redis.call('LPUSH', KEYS[2], id)
    redis.call('HSET', task, 'state', 'pending', 'pending_since', now_ns)
    moved = moved + 1
  end
end
if moved > 0 then
  wake(KEYS[4], moved, queue, math.floor(tonumber(now_ns) / 1000000))
end
return #due
