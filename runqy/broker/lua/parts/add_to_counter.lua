-- Add to a counter in a hash that workers can write. A counter that is not a number, or would overflow, starts again. If
-- the key is of another type, nothing is counted.
local function add_to_counter(counters, field, amount)
  local added = redis.pcall('HINCRBY', counters, field, amount)
  if type(added) == 'table' and added.err then
    redis.pcall('HSET', counters, field, amount)
  end
end
