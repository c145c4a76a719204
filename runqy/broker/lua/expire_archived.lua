#!lua flags=allow-oom
-- Scan a slice of the archived tasks, the first to expire first, and delete those that have expired or are too many.
-- A score is when the task expires, or when it was archived by asynq.
-- Ids without a task are removed.
-- KEYS archived
-- ARGV task_prefix lock_prefix now_s default_ttl_s max_age_s max_tasks offset limit
-- RETURNS how many were scanned, and the ids removed from the index
-- USES release_lock append_end delete_task
local task_prefix, now_s, default_ttl_s = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local max_age_s, offset, limit = tonumber(ARGV[5]), tonumber(ARGV[7]), tonumber(ARGV[8])
local surplus = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[6])
local slice = redis.call('ZRANGE', KEYS[1], offset, offset + limit - 1, 'WITHSCORES')
local gone = {}
for i = 1, #slice, 2 do
  local id = slice[i]
  local task = task_prefix .. id
  local seen = redis.call('HMGET', task, 'state', 'ttl_archived', 'archived_at')
  local ttl_s = math.min(tonumber(seen[2] or '') or default_ttl_s, max_age_s)
  local score, archived_at = tonumber(slice[i + 1]), tonumber(seen[3] or '')
  local is_expiry = archived_at and score == archived_at + math.min(tonumber(seen[2] or '') or max_age_s, max_age_s)
  local rank = offset + (i + 1) / 2
  if not seen[1] or rank <= surplus or (is_expiry and archived_at or score) + ttl_s <= now_s then
    delete_task(task, id, 'archived', ARGV[2])
    redis.call('ZREM', KEYS[1], id)
    gone[#gone + 1] = id
  end
end
return {#slice / 2, gone}
