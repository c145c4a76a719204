#!lua flags=allow-oom
-- Append an audit record to the stream, unless the stream has reached its limit of entries or bytes.
-- KEYS audit
-- ARGV max_entries max_bytes content
-- RETURNS 1 appended, 0 the stream is full
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  return 0
end
local used = redis.call('MEMORY', 'USAGE', KEYS[1]) or 0
if used + #ARGV[3] > tonumber(ARGV[2]) then
  return 0
end
redis.call('XADD', KEYS[1], '*', 'content', ARGV[3])
return 1
