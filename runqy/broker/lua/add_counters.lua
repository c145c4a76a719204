#!lua flags=allow-oom
-- Add the counters of another Redis queue, once for each token. Those of days expire.
-- KEYS moved run_counters counters*
-- ARGV keep_moved_s values_and_expiries_and_runs*
--   for each counter its value and the Unix s at which it expires ('': never); then fields of run_counters and values
-- RETURNS 1 added, 0 they were added before
-- USES add_to_counter
if not redis.call('SET', KEYS[1], 'counters', 'NX', 'EX', ARGV[1]) then
  return 0
end
for i = 3, #KEYS do
  local value, expires = ARGV[2 * i - 4], ARGV[2 * i - 3]
  redis.call('INCRBY', KEYS[i], value)
  if expires ~= '' and redis.call('TTL', KEYS[i]) == -1 then
    redis.call('EXPIREAT', KEYS[i], expires)
  end
end
for i = 2 * #KEYS - 2, #ARGV, 2 do
  add_to_counter(KEYS[2], ARGV[i], ARGV[i + 1])
end
return 1
