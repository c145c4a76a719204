#!lua flags=no-writes
-- Return a page of the tasks in a list, the next to be dequeued first, after an anchor that may be gone.
-- Tasks in a list keep their order, so a page starts after the anchor, or at the task that followed it. If both are gone
-- it starts where the tasks are no older than the anchor was.
-- KEYS index
-- ARGV task_prefix state limit max_bytes is_newest_first since_field anchor_since anchor_id next_id depth
--   without an anchor its id is ''; depth: its distance from the start of the pages
-- RETURNS id and since of the last one scanned, the next id or '', its depth, and for each task id, since, fields and values
-- USES in_ns read_page
local index, limit, is_newest_first = KEYS[1], tonumber(ARGV[3]), ARGV[5] == '1'
local since, anchor, following, depth = in_ns(ARGV[7]), ARGV[8], ARGV[9], tonumber(ARGV[10])
local length = redis.call('LLEN', index)

-- Depths count from the start of the pages: the right end if oldest first, the left end if newest first.
local function at(d)
  return is_newest_first and d or -d - 1
end

local function waits_since(id)
  return in_ns(redis.call('HGET', ARGV[1] .. id, ARGV[6])) or 0
end

local function depth_by_age()
  local low, high = 0, length
  while low < high do
    local middle = math.floor((low + high) / 2)
    local other = waits_since(redis.call('LINDEX', index, at(middle)))
    if (is_newest_first and other > since) or (not is_newest_first and other < since) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local by_age
local function find_by_age(id)
  by_age = by_age or depth_by_age()
  local first = math.max(by_age - 50, 0)
  local near = is_newest_first and redis.call('LRANGE', index, first, first + 1000)
    or redis.call('LRANGE', index, -(first + 1001), -(first + 1))
  for position, other in ipairs(near) do
    if other == id then
      return first + (is_newest_first and position - 1 or #near - position)
    end
  end
end

-- Scanning a million ids takes Redis 60 ms, so it is the last resort: for an id that is in the list, but neither where it
-- was nor where its age suggests, because tasks were inserted out of order.
local function find(id, last_seen_at)
  if id == '' or redis.call('HGET', ARGV[1] .. id, 'state') ~= ARGV[2] then
    return nil
  end
  if last_seen_at >= 0 and redis.call('LINDEX', index, at(last_seen_at)) == id then
    return last_seen_at
  end
  local position = find_by_age(id)
  if position then
    return position
  end
  position = redis.call('LPOS', index, id, 'RANK', is_newest_first and 1 or -1, 'MAXLEN', math.min(depth + 100000, 1000000))
  return position and (is_newest_first and position or length - 1 - position)
end

local start = 0
if anchor ~= '' then
  local position = find(anchor, depth - 1)
  start = position and position + 1 or find(following, depth) or by_age or depth_by_age()
end
local ids = is_newest_first and redis.call('LRANGE', index, start, start + limit)
  or redis.call('LRANGE', index, -(start + limit + 1), -(start + 1))
local found = {}
for _, id in ipairs(ids) do
  table.insert(found, is_newest_first and #found + 1 or 1, {id, ''})
end
for _, entry in ipairs(found) do
  entry[2] = redis.call('HGET', ARGV[1] .. entry[1], ARGV[6]) or ''
end
local looked_at, page = read_page(found, ARGV[1], ARGV[2], limit, tonumber(ARGV[4]))
local behind, ahead = found[looked_at] or {'', ''}, found[looked_at + 1] or {''}
return {behind[1], behind[2], ahead[1], start + looked_at, page}
