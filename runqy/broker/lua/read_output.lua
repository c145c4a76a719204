#!lua flags=no-writes,allow-stale
-- Return what an attempt of a task printed, from an offset on.
-- A task without the field `output` has printed nothing: any output belongs to an earlier task with the same id.
-- KEYS task output
-- ARGV attempt offset
-- RETURNS the attempts with output, the attempt ('': the last one with output), offset of the text, text, is_shared
if redis.call('HEXISTS', KEYS[1], 'output') == 0 then
  return {'', '', '0', '', ''}
end
local attempts = redis.call('HGET', KEYS[2], 'attempts') or ''
local attempt = ARGV[1] ~= '' and ARGV[1] or string.match(attempts, '%d+$') or ''
local stored = redis.call('HMGET', KEYS[2], attempt, attempt .. ':end', attempt .. ':shared')
local text = stored[1] or ''
local start = (tonumber(stored[2] or '0') or 0) - #text
local skipped = math.max((tonumber(ARGV[2]) or 0) - start, 0)
return {attempts, attempt, string.format('%.0f', start + math.min(skipped, #text)), string.sub(text, skipped + 1), stored[3] or ''}
