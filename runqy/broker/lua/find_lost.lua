#!lua flags=no-writes
-- Find tasks whose lease ended, and running ids of one slice of the active list that have no lease at all.
-- KEYS lease active
-- ARGV task_prefix cutoff_s offset limit
-- RETURNS size of the slice; then for each task: id, score of its lease, owner, cancel (each empty when there is none)
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
