#!lua flags=no-writes
-- Return how many entries a stream has, and the id of the oldest. Workers can write some streams: another type is empty.
-- KEYS stream
-- RETURNS number of entries, id of the oldest or nothing
if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then
  return {0, false}
end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return {redis.call('XLEN', KEYS[1]), oldest and oldest[1] or false}
