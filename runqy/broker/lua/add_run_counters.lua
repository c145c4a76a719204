#!lua flags=allow-oom
-- Add to counters. One that is no number, or would overflow, begins again.
-- KEYS counters
-- ARGV fields_and_amounts*
-- RETURNS nothing
for i = 1, #ARGV, 2 do
  local added = redis.pcall('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
  if type(added) == 'table' and added.err then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return false
