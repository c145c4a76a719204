#!lua flags=no-writes
-- Return a page of the tasks in a sorted set, by score and then id, after an anchor that may be gone.
-- KEYS index
-- ARGV task_prefix state limit max_bytes is_newest_first anchor_score anchor_id
--   without an anchor its score is ''
-- RETURNS id and score of the last one scanned, whether there are more, and for each task id, score, fields and values
-- USES read_page
local index, limit, is_newest_first = KEYS[1], tonumber(ARGV[3]), ARGV[5] == '1'
local score, anchor = ARGV[6], ARGV[7]

-- Redis orders equal scores by bytes; Lua compares by locale.
local function is_less(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

-- Return the rank at which a page begins: the first after the anchor, or at it when the order is descending.
local function rank_behind_anchor()
  local low, high = redis.call('ZCOUNT', index, '-inf', '(' .. score), redis.call('ZCOUNT', index, '-inf', score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local other = redis.call('ZRANGE', index, middle, middle)[1]
    if is_less(other, anchor) or (other == anchor and not is_newest_first) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local first, last
if is_newest_first then
  last = (score == '' and redis.call('ZCARD', index) or rank_behind_anchor()) - 1
  first = math.max(last - limit, 0)
else
  first = score == '' and 0 or rank_behind_anchor()
  last = first + limit
end
local found = {}
if last >= first then
  local slice = redis.call('ZRANGE', index, first, last, 'WITHSCORES')
  for i = 1, #slice, 2 do
    table.insert(found, is_newest_first and 1 or #found + 1, {slice[i], slice[i + 1]})
  end
end
local looked_at, page = read_page(found, ARGV[1], ARGV[2], limit, tonumber(ARGV[4]))
local behind = found[looked_at] or {'', ''}
return {behind[1], behind[2], #found > looked_at and 1 or 0, page}
