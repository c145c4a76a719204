#!lua flags=no-writes
-- Return the oldest entries of a stream of ended attempts, without the content of those that are too large: any worker
-- can write there.
-- KEYS runs
-- ARGV limit max_bytes
-- RETURNS for each entry its id, and its fields and values or nothing
local max_bytes = tonumber(ARGV[2])
local entries = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[1])
for _, entry in ipairs(entries) do
  local bytes = 0
  for _, value in ipairs(entry[2]) do
    bytes = bytes + #value
  end
  if bytes > max_bytes then
    entry[2] = {}
  end
end
return entries
