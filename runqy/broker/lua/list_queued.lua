#!lua flags=no-writes
-- Read a page of the tasks in a list, the next to be taken first, from behind an anchor that may be gone.
-- What stays in a list keeps its order, so a page goes on behind the anchor, or at the one that stood behind it. With
-- both gone it goes on where the tasks are no older than the anchor was.
-- KEYS index
-- ARGV task_prefix state limit max_bytes is_newest_first since_field anchor_since anchor_id next_id depth
--   without an anchor its id is ''; depth: how far from where the pages begin it stood
-- RETURNS id and since of the last one looked at, the id behind it or '', its depth, and for each task id, since, fields and values
-- USES read_page
local index, limit, is_newest_first = KEYS[1], tonumber(ARGV[3]), ARGV[5] == '1'
local since, anchor, following, depth = tonumber(ARGV[7]), ARGV[8], ARGV[9], tonumber(ARGV[10])
local length = redis.call('LLEN', index)

-- Depths count from where the pages begin: the right end for the oldest first, the left for the newest first.
local function at(d)
  return is_newest_first and d or -d - 1
end

local function waits_since(id)
  return tonumber(redis.call('HGET', ARGV[1] .. id, ARGV[6]) or '') or 0
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
  for place, other in ipairs(near) do
    if other == id then
      return first + (is_newest_first and place - 1 or #near - place)
    end
  end
end

-- A walk along a million ids takes Redis 60 ms, so it comes last: for an id that is in the list, yet neither where it was
-- nor where its age says, because tasks were put in out of their order.
local function find(id, last_seen_at)
  if id == '' or redis.call('HGET', ARGV[1] .. id, 'state') ~= ARGV[2] then
    return nil
  end
  if last_seen_at >= 0 and redis.call('LINDEX', index, at(last_seen_at)) == id then
    return last_seen_at
  end
  local place = find_by_age(id)
  if place then
    return place
  end
  place = redis.call('LPOS', index, id, 'RANK', is_newest_first and 1 or -1, 'MAXLEN', math.min(depth + 100000, 1000000))
  return place and (is_newest_first and place or length - 1 - place)
end

local start = 0
if anchor ~= '' then
  local place = find(anchor, depth - 1)
  start = place and place + 1 or find(following, depth) or by_age or depth_by_age()
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
