#!lua flags=no-writes
-- Find tasks whose lease has expired, and the ids without a lease in one slice of the active list.
-- KEYS lease active
-- ARGV task_prefix cutoff_s offset limit
-- RETURNS size of the slice; then for each task: id, score of its lease, token, cancel (each empty when it is missing)
local task_prefix, offset, limit = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local found = {}

local function add(id, score)
  local seen = redis.call('HMGET', task_prefix .. id, 'owner', 'cancel')
  found[#found + 1] = {id, score, seen[1] or '', seen[2] or ''}
end

if offset == 0 then
  local ended = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[2], 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES')
  for i = 1, #ended, 2 do
    add(ended[i], ended[i + 1])
  end
end
local slice = redis.call('LRANGE', KEYS[2], -(offset + limit), -(offset + 1))
for _, id in ipairs(slice) do
  if not redis.call('ZSCORE', KEYS[1], id) then
    add(id, '')
  end
end
return {#slice, found}
