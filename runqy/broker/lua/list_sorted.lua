#!lua flags=no-writes
-- Return a page of the tasks in a sorted set, by score and then id, after an anchor that may be gone; or of those in
-- groups of asynq's clients, group by group.
-- KEYS index
-- ARGV task_prefix group_prefix state limit max_bytes is_newest_first anchor_group anchor_score anchor_id
--   group_prefix: '' for a sorted set, else the index has the names of the groups; without an anchor its score is ''
-- RETURNS id and score of the last one scanned, whether there are more, for each task id, score, fields and values, and
--   the group of the last one scanned
-- USES read_page slice_sorted
local limit, is_newest_first, anchor = tonumber(ARGV[4]), ARGV[6] == '1', ARGV[8] ~= '' and ARGV[7]
local keys, names, found = {[''] = KEYS[1]}, {''}, {}
if ARGV[2] ~= '' then
  names = redis.call('SMEMBERS', KEYS[1])
  for _, name in ipairs(names) do
    keys[name] = ARGV[2] .. name
  end
  table.sort(names, function(a, b)
    return is_newest_first and b < a or not is_newest_first and a < b
  end)
end
for _, name in ipairs(names) do
  local is_behind = not anchor or name == anchor or (name > anchor) ~= is_newest_first
  if is_behind and #found <= limit then
    local score = name == anchor and ARGV[8] or ''
    for _, each in ipairs(slice_sorted(keys[name], limit - #found, is_newest_first, score, ARGV[9])) do
      found[#found + 1] = {each[1], each[2], name}
    end
  end
end
local looked_at, page = read_page(found, ARGV[1], ARGV[3], limit, tonumber(ARGV[5]))
local behind = found[looked_at] or {'', '', ''}
return {behind[1], behind[2], #found > looked_at and 1 or 0, page, behind[3]}
