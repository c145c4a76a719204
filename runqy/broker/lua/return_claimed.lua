#!lua flags=allow-oom
-- Put a claimed task back into its index, because it cannot be moved. A later claim of a sorted set passes over it, until
-- all others were tried.
-- KEYS claims task index offsets
-- ARGV id token state score
-- RETURNS 1 returned, 0 not claimed with this token
-- USES claims
if not is_claimed(KEYS[1], ARGV[1], ARGV[2]) then
  return 0
end
redis.call(ARGV[3] == 'pending' and 'LLEN' or 'ZCARD', KEYS[3]) -- fails before anything is written if it has another type
redis.call('HDEL', KEYS[2], 'moving')
redis.call('HDEL', KEYS[1], ARGV[1])
if ARGV[3] == 'pending' then
  redis.call('RPUSH', KEYS[3], ARGV[1])
else
  redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1])
  redis.call('HINCRBY', KEYS[4], KEYS[3], 1)
end
return 1
