-- Remove ids from the pending list. LREM compares each id from the end, 20 ms for a million, so in a long list the id is
-- found by its time: the list is ordered by `pending_since`, the newest at the left, apart from tasks that were
-- requeued at the right end and from clocks that differ slightly.
-- An id far from both ends is replaced by the newest one; nothing else moves. That task stores the time of its new
-- position in `place`, after its own `pending_since`, which must match.
local NEAR_END = 10000 -- this close to an end LREM is fast, and keeps the order
local MARGIN = 50 -- how far from the position that its time suggests an id is searched at first

-- Return since when the task at a position of the list has been pending, in ns; nil if unknown.
local function time_at(task)
  local seen = redis.call('HMGET', task, 'pending_since', 'place')
  local since, place = seen[1], seen[2]
  if since and place and string.sub(place, 1, #since + 1) == since .. ' ' then
    since = string.sub(place, #since + 2)
  end
  return in_ns(since)
end

-- Return the median time of the ids around an index, so that one of them may be out of order.
local function time_near(pending, index, task_prefix)
  local times = {}
  for _, id in ipairs(redis.call('LRANGE', pending, math.max(index - 1, 0), index + 1)) do
    times[#times + 1] = time_at(task_prefix .. id)
  end
  table.sort(times)
  return times[math.floor(#times / 2) + 1]
end

-- Return an index at most MARGIN after the first one, from the left, where tasks have been pending since `time` or longer.
local function index_by_time(pending, length, time, task_prefix)
  local low, high = 0, length
  while high - low > MARGIN do
    local middle = math.floor((low + high) / 2)
    local seen = time_near(pending, middle, task_prefix)
    if not seen then
      return nil
    end
    if seen > time then
      low = middle + 1
    else
      high = middle
    end
  end
  return high
end

local function index_within(pending, id, first, last)
  for start = math.max(first, 0), last, 500 do
    for offset, other in ipairs(redis.call('LRANGE', pending, start, math.min(start + 499, last))) do
      if other == id then
        return start + offset - 1
      end
    end
  end
end

-- Return the index of an id, or nil if it is not where its time suggests.
local function index_of(pending, length, id, task_prefix)
  local time = time_at(task_prefix .. id)
  local first = time and index_by_time(pending, length, time, task_prefix)
  if not first then
    return nil
  end
  local index = index_within(pending, id, first - 2 * MARGIN, first + MARGIN)
  if index then
    return index
  end
  local start = first + MARGIN + 1
  repeat -- all tasks of a batch have the same time
    index = index_within(pending, id, start, start + 499)
    start = start + 500
    local seen = time_near(pending, start, task_prefix)
  until index or not seen or seen < time or start > first + 20000
  return index
    or index_within(pending, id, start, start + 2000)
    or index_within(pending, id, first - 2000, first - 2 * MARGIN - 1)
end

-- Remove an id; return how often it was in the list, 1 or 0.
local function remove_from_pending(pending, id, task_prefix)
  local length = redis.call('LLEN', pending)
  if length <= 2 * NEAR_END or redis.call('LINDEX', pending, -1) == id then
    return redis.call('LREM', pending, -1, id)
  end
  local index = index_of(pending, length, id, task_prefix)
  if not index or index >= length - NEAR_END then
    return redis.call('LREM', pending, -1, id)
  elseif index < NEAR_END then
    return redis.call('LREM', pending, 1, id)
  end
  local newest = redis.call('LINDEX', pending, 0)
  local since = redis.call('HGET', task_prefix .. newest, 'pending_since')
  if since then
    redis.call('HSET', task_prefix .. newest, 'place', since .. ' ' .. string.format('%.0f', time_at(task_prefix .. id)))
  end
  redis.call('LSET', pending, index, newest)
  redis.call('LPOP', pending)
  return 1
end
