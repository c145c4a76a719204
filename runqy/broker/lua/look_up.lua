#!lua
-- Note for many tasks which queue they are in. Not for clusters.
-- KEYS lookup*
-- ARGV queue
for _, lookup in ipairs(KEYS) do
  redis.call('HSET', lookup, 'queue', ARGV[1])
end
