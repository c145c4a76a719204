-- Add to a counter of a hash, which workers can write. One that is no number, or would overflow, begins again; where the
-- key holds something else, nothing is counted.
local function add_to_counter(counters, field, amount)
  local added = redis.pcall('HINCRBY', counters, field, amount)
  if type(added) == 'table' and added.err then
    redis.pcall('HSET', counters, field, amount)
  end
end
