#!lua flags=no-writes
-- Find tasks that a foreign program ended, in a slice of those that have ended, the last to expire first: their end should
-- be told, but was not appended, or they have ended again since.
-- KEYS index
-- ARGV task_prefix state offset limit max_age_s
-- RETURNS size of the slice, and of each the id and the field `ended`, or ''
local found, slice = {}, redis.call('ZRANGE', KEYS[1], ARGV[3], ARGV[3] + ARGV[4] - 1, 'REV', 'WITHSCORES')
for i = 1, #slice, 2 do
  local seen = redis.call('HMGET', ARGV[1] .. slice[i], 'state', 'notify', 'ended', 'ttl_completed', 'ttl_archived', 'archived_at')
  if seen[1] == ARGV[2] and seen[2] then
    local ended_at, archived_at = tonumber(slice[i + 1]), tonumber(seen[6] or '')
    local ttl_s = math.min(tonumber(seen[5] or '') or ARGV[5], ARGV[5])
    if ARGV[2] == 'completed' then
      ended_at = ended_at - (tonumber(seen[4] or '') or 0)
    elseif archived_at and ended_at == archived_at + ttl_s then
      ended_at = archived_at
    end
    if not seen[3] or ended_at > (tonumber(seen[3]) or 0) / 1e9 + 1 then
      found[#found + 1] = {slice[i], seen[3] or ''}
    end
  end
end
return {#slice / 2, found}
