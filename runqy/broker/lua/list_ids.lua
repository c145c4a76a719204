#!lua flags=no-writes
-- Look at the first ids of an index: those that run next, or stand longest.
-- KEYS index
-- ARGV limit
-- RETURNS how many the index has, and the ids
if redis.call('TYPE', KEYS[1]).ok == 'list' then
  return {redis.call('LLEN', KEYS[1]), redis.call('LRANGE', KEYS[1], -ARGV[1], -1)}
end
return {redis.call('ZCARD', KEYS[1]), redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)}
