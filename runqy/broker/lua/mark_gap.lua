#!lua flags=allow-oom
-- Record how many chunks a run streamed. Those that could not be stored are a gap. A run that began again within its
-- lease has a higher number than the task.
-- KEYS task chunks
-- ARGV lease_token run_number end
-- RETURNS 1 recorded, 0 lease lost
-- USES has_lease stored_chunks
local seen = redis.call('HMGET', KEYS[1], 'owner', 'finished_by', 'state', 'runs', 'chunks')
if not has_lease(ARGV[1], seen[1], seen[2], seen[3]) or tonumber(ARGV[2]) < (tonumber(seen[4] or '') or 0) then
  return 0
end
if seen[4] ~= ARGV[2] then
  redis.call('UNLINK', KEYS[2]) -- of the run before
end
if (stored_chunks(seen[5], ARGV[2]) or 0) < tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], 'chunks', ARGV[2] .. ':' .. ARGV[3], 'runs', ARGV[2])
end
return 1
