#!lua flags=allow-oom
-- Store a signed document and a new head, if the head is still the one that the new head is based on.
-- KEYS documents revisions head_key
-- ARGV seen_head head field revision content
-- RETURNS 1 stored, 0 another head is stored
if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[5])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('SET', KEYS[3], ARGV[2])
return 1
