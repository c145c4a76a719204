#!lua flags=allow-oom
-- Remove documents unconditionally.
-- KEYS documents revisions
-- ARGV fields*
-- RETURNS how many existed
local removed = 0
for _, field in ipairs(ARGV) do
  redis.call("HDEL", KEYS[2], field)
  removed = removed + redis.call("HDEL", KEYS[1], field)
end
return removed
