#!lua flags=no-writes,allow-stale
-- Return the chunks of a task's last run, from an offset on if that is of this run.
-- KEYS task chunks
-- ARGV run_number offset max_bytes max_entries gap
-- RETURNS number of the run, offset of the entries, number of the run's entries, and entries; nil if there is no task
-- USES stored_chunks
local PAGE = 500
local seen = redis.call('HMGET', KEYS[1], 'state', 'runs', 'chunks')
if not seen[1] then
  return nil
end
local run_number = tonumber(seen[2] or '') or 0
local stop = math.min(stored_chunks(seen[3], run_number) or 0, tonumber(ARGV[4]))
local offset = tonumber(ARGV[1]) == run_number and tonumber(ARGV[2]) or 0
local entries, size, max_bytes = {}, 0, tonumber(ARGV[3])
while size < max_bytes and offset + #entries < stop do
  local start = offset + #entries
  local page = redis.call('LRANGE', KEYS[2], start, math.min(start + PAGE, stop) - 1)
  for _, entry in ipairs(page) do
    size = size + #entry
    if size > max_bytes and #entries > 0 then
      break
    end
    entries[#entries + 1] = entry
  end
  if #page == 0 then
    entries[#entries + 1] = ARGV[5] -- Redis was full when the run ended
  end
end
return {run_number, offset, stop, entries}
