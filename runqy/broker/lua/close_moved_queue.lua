#!lua flags=allow-oom
-- Take the counters of a Redis queue that has no tasks and whose ended attempts are recorded; delete its pause.
-- They stay in `closing` until they are added elsewhere; a call that finds them there returns them again.
-- KEYS closing pending active lease scheduled retry archived completed groups aggregation_sets claims paused pause_details idle runs run_counters counters*
-- ARGV token run_field_count names*
--   names: the fields of run_counters, then the counters
-- RETURNS 0 it has tasks or ended attempts; else token, and name and value of each counter that is not 0, `run:<field>` for those of run_counters
-- USES add_to_counter
local closing = KEYS[1]
for i = 2, 11 do
  if i ~= 9 and redis.call('EXISTS', KEYS[i]) == 1 then
    return 0
  end
end
-- A group whose tasks were all moved is still named here.
for _, name in ipairs(redis.call('SMEMBERS', KEYS[9])) do
  if redis.call('EXISTS', string.sub(KEYS[2], 1, -8) .. 'g:' .. name) == 1 then
    return 0
  end
end
if redis.call('TYPE', KEYS[15]).ok == 'stream' and redis.call('XLEN', KEYS[15]) > 0 then
  return 0
end
redis.call('HSETNX', closing, 'token', ARGV[1])
local run_field_count = tonumber(ARGV[2])
local counted = redis.pcall('HMGET', KEYS[16], unpack(ARGV, 3, 2 + run_field_count)) -- workers can write it
for i = 1, run_field_count do
  if counted[i] and string.match(counted[i], '^%d+$') then
    add_to_counter(closing, 'run:' .. ARGV[2 + i], counted[i])
  end
end
for i = 17, #KEYS do
  local value = redis.call('GET', KEYS[i])
  if value and string.match(value, '^%d+$') then
    redis.call('HINCRBY', closing, ARGV[i - 14 + run_field_count], value)
    redis.call('DEL', KEYS[i])
  end
end
redis.call('DEL', KEYS[9], KEYS[12], KEYS[13], KEYS[14], KEYS[15], KEYS[16])
return redis.call('HGETALL', closing)
