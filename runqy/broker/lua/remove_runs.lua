#!lua flags=allow-oom
-- Remove the entries of a stream of ended attempts that are older than an id.
-- KEYS runs
-- ARGV next_id
-- RETURNS how many entries are left, how many were ever appended
if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then
  return {0, 0}
end
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1])
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
  if info[i] == 'entries-added' then
    return {redis.call('XLEN', KEYS[1]), info[i + 1]}
  end
end
return {redis.call('XLEN', KEYS[1]), 0}
