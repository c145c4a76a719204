#!lua flags=allow-oom
-- Move the tasks of stale aggregation sets back to their groups, with their scores there.
-- KEYS aggregation_sets groups
-- ARGV group_prefix now_s limit
-- RETURNS how many sets were checked
local group_prefix = ARGV[1]
local stale = redis.call('ZRANGE', KEYS[1], '-inf', ARGV[2], 'BYSCORE', 'LIMIT', 0, ARGV[3])
for _, set in ipairs(stale) do
  local group = string.match(set, '^(.*):[^:]*$')
  if group and string.sub(group, 1, #group_prefix) == group_prefix then
    if redis.call('EXISTS', set) == 1 then
      redis.call('ZUNIONSTORE', group, 2, group, set, 'AGGREGATE', 'MIN')
      redis.call('UNLINK', set)
      redis.call('SADD', KEYS[2], string.sub(group, #group_prefix + 1))
    end
  end
  redis.call('ZREM', KEYS[1], set)
end
return #stale
