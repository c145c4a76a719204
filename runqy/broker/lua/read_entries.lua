#!lua flags=no-writes
-- Return the oldest entries of a stream from `start` on, without the content of those that are too large: workers can
-- write some streams.
-- KEYS stream
-- ARGV start limit max_bytes
-- RETURNS for each entry its id, and its fields and values or nothing
local max_bytes = tonumber(ARGV[3])
local entries = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
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
