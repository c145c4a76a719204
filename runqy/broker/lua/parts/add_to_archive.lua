local MAX_AGE_S = 90 * 24 * 3600 -- constants.ARCHIVE_MAX_AGE_S

-- Add a task to the archive. Its score is the second at which it expires, because Go's workers delete tasks with a score
-- in the past. The field `archived_at` has the time of archiving.
local function add_to_archive(archived, task, id, now_s)
  local ttl_s = math.min(tonumber(redis.call('HGET', task, 'ttl_archived') or '') or MAX_AGE_S, MAX_AGE_S)
  redis.call('ZADD', archived, string.format('%.0f', now_s + ttl_s), id)
  redis.call('HSET', task, 'archived_at', now_s)
end

