#!lua flags=no-writes
-- Return a page of the tasks in a sorted set, by score and then id, after an anchor that may be gone.
-- KEYS index
-- ARGV task_prefix state limit max_bytes is_newest_first anchor_score anchor_id
--   without an anchor its score is ''
-- RETURNS id and score of the last one scanned, whether there are more, and for each task id, score, fields and values
-- USES read_page slice_sorted
local limit = tonumber(ARGV[3])
local found = slice_sorted(KEYS[1], limit, ARGV[5] == '1', ARGV[6], ARGV[7])
local looked_at, page = read_page(found, ARGV[1], ARGV[2], limit, tonumber(ARGV[4]))
local behind = found[looked_at] or {'', ''}
return {behind[1], behind[2], #found > looked_at and 1 or 0, page}
