#!lua flags=no-writes
-- Return some ids of an index from an offset on, in the order in which they run or expire.
-- KEYS index
-- ARGV offset limit
-- RETURNS the size of the index, and the ids
local offset, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
if redis.call('TYPE', KEYS[1]).ok == 'list' then
  return {redis.call('LLEN', KEYS[1]), redis.call('LRANGE', KEYS[1], -offset - limit, -offset - 1)}
end
return {redis.call('ZCARD', KEYS[1]), redis.call('ZRANGE', KEYS[1], offset, offset + limit - 1)}
