#!lua flags=no-writes
-- Estimate the memory of a queue from a sample of its tasks: of each index the 20 that run or expire next, of 5 groups as many.
-- KEYS active pending scheduled retry archived completed groups
-- ARGV task_prefix group_prefix
-- RETURNS bytes
local SAMPLE, GROUPS = 20, 5

local function mean_size(ids)
  local sum, count = 0, 0
  for _, id in ipairs(ids) do
    -- Every field counts: a task has few of them, and one is the payload.
    local size = redis.call('MEMORY', 'USAGE', ARGV[1] .. id, 'SAMPLES', 0)
    if size then
      sum, count = sum + size, count + 1
    end
  end
  return count > 0 and sum / count or 0
end

local total = 0
for i = 1, 6 do
  local ids, length
  if i <= 2 then
    ids, length = redis.call('LRANGE', KEYS[i], -SAMPLE, -1), redis.call('LLEN', KEYS[i])
  else
    ids, length = redis.call('ZRANGE', KEYS[i], 0, SAMPLE - 1), redis.call('ZCARD', KEYS[i])
  end
  if length > 0 then
    total = total + mean_size(ids) * length + redis.call('MEMORY', 'USAGE', KEYS[i])
  end
end
local sampled, grouped = {}, 0
for i, group in ipairs(redis.call('SMEMBERS', KEYS[7])) do
  grouped = grouped + redis.call('ZCARD', ARGV[2] .. group)
  if i <= GROUPS then
    for _, id in ipairs(redis.call('ZRANGE', ARGV[2] .. group, 0, SAMPLE - 1)) do
      sampled[#sampled + 1] = id
    end
  end
end
return math.floor(total + mean_size(sampled) * grouped)
