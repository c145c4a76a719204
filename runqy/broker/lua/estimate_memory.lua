#!lua flags=no-writes
-- Estimate the memory of a queue from samples: 20 tasks at equal distances of each index, and of each of 5 groups.
-- Sampled tasks count exactly. Each other task counts as the median of its index's sample, so that one huge task counts
-- once.
-- KEYS active pending scheduled retry archived completed groups
-- ARGV task_prefix group_prefix
-- RETURNS bytes
-- USES delete_task
local SAMPLE, GROUPS = 20, 5

-- Return the sum of the tasks' memory plus its median for each further task of `length`.
local function extrapolate(ids, length)
  local sizes, sum = {}, 0
  for _, id in ipairs(ids) do
    -- Every field counts: a task has few of them, and one is the payload.
    local task = ARGV[1] .. id
    local size = redis.call('MEMORY', 'USAGE', task, 'SAMPLES', 0)
    if size then
      for _, key in ipairs({kept_keys(task, id)}) do
        size = size + (redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0) or 0)
      end
      sizes[#sizes + 1], sum = size, sum + size
    end
  end
  if #sizes == 0 then
    return 0
  end
  table.sort(sizes)
  return sum + sizes[math.floor((#sizes + 1) / 2)] * math.max(length - #ids, 0)
end

-- Return ids at equal distances of an index.
local function sample(command, key, length)
  if length <= SAMPLE then
    return redis.call(command, key, 0, -1)
  end
  local ids = {}
  for i = 0, SAMPLE - 1 do
    local position = math.floor(i * (length - 1) / (SAMPLE - 1))
    ids[#ids + 1] = redis.call(command, key, position, position)[1]
  end
  return ids
end

local total = 0
for i = 1, 6 do
  local length = redis.call(i <= 2 and 'LLEN' or 'ZCARD', KEYS[i])
  if length > 0 then
    total = total + extrapolate(sample(i <= 2 and 'LRANGE' or 'ZRANGE', KEYS[i], length), length)
      + redis.call('MEMORY', 'USAGE', KEYS[i])
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
return math.floor(total + extrapolate(sampled, grouped))
