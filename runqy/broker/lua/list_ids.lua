#!lua flags=no-writes
-- Look at some ids of an index, behind so many of the first: those that run next, or stand longest.
-- KEYS index
-- ARGV offset limit
-- RETURNS how many the index has, and the ids
local offset, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
if redis.call('TYPE', KEYS[1]).ok == 'list' then
  return {redis.call('LLEN', KEYS[1]), redis.call('LRANGE', KEYS[1], -offset - limit, -offset - 1)}
end
return {redis.call('ZCARD', KEYS[1]), redis.call('ZRANGE', KEYS[1], offset, offset + limit - 1)}
