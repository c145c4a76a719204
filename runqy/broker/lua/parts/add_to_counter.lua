-- Add to a counter in a hash that workers can write. A counter that is not a number, or would overflow, starts again. If
-- the key is of another type, nothing is counted.
local function add_to_counter(counters, field, amount)
  local added = redis.pcall('HINCRBY', counters, field, amount)
  if type(added) == 'table' and added.err then
    redis.pcall('HSET', counters, field, amount)
  end
end

-- Count an outcome, as workers do.
local function count_outcome(counters, outcome, is_first, is_final)
  add_to_counter(counters, outcome, 1)
  if is_first then
    add_to_counter(counters, 'first_' .. outcome, 1)
  end
  if is_final then
    add_to_counter(counters, 'ended_' .. outcome, 1)
  end
end
