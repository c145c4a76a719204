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
local function rank_behind_anchor(index, is_newest_first, score, anchor)
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

-- Return pairs of id and score of a sorted set, by score and then id, after an anchor that may be gone (without one its
-- score is ''): `limit` of them, and another one if there are more.
local function slice_sorted(index, limit, is_newest_first, score, anchor)
  local first, last
  if is_newest_first then
    local size = score == '' and redis.call('ZCARD', index) or rank_behind_anchor(index, true, score, anchor)
    last = size - 1
    first = math.max(last - limit, 0)
  else
    first = score == '' and 0 or rank_behind_anchor(index, false, score, anchor)
    last = first + limit
  end
  local found = {}
  if last >= first then
    local slice = redis.call('ZRANGE', index, first, last, 'WITHSCORES')
    for i = 1, #slice, 2 do
      table.insert(found, is_newest_first and 1 or #found + 1, {slice[i], slice[i + 1]})
    end
  end
  return found
end
