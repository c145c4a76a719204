#!lua flags=allow-oom
-- Add the counters of another Redis queue, once for each token. Those of days expire.
-- KEYS moved counters*
-- ARGV keep_moved_s values_and_expiries*
--   for each counter its value and the Unix s at which it expires ('': never)
-- RETURNS 1 added, 0 they were added before
if not redis.call('SET', KEYS[1], 'counters', 'NX', 'EX', ARGV[1]) then
  return 0
end
for i = 2, #KEYS do
  local value, expires = ARGV[2 * i - 2], ARGV[2 * i - 1]
  redis.call('INCRBY', KEYS[i], value)
  if expires ~= '' and redis.call('TTL', KEYS[i]) == -1 then
    redis.call('EXPIREAT', KEYS[i], expires)
  end
end
return 1
