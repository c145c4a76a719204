#!lua flags=no-writes
-- Return a slice of the pending list, the next to be dequeued first.
-- KEYS pending
-- ARGV task_prefix offset limit
-- RETURNS for each id: id, ns since when it has been pending ('' if unknown)
local offset, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
local slice = redis.call('LRANGE', KEYS[1], -(offset + limit), -(offset + 1))
local found = {}
for i = #slice, 1, -1 do
  found[#found + 1] = {slice[i], redis.call('HGET', ARGV[1] .. slice[i], 'pending_since') or ''}
end
return found
