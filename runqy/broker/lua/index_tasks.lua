#!lua
-- Write the queue of many tasks to their lookups. Not for clusters.
-- KEYS lookup*
-- ARGV queue
for _, lookup in ipairs(KEYS) do
  redis.call('HSET', lookup, 'queue', ARGV[1])
end
