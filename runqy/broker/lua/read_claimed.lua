#!lua flags=no-writes
-- Read a task if it is claimed for a move with this token. A key of another type reads as empty.
-- KEYS claims task output
-- ARGV id token lock_prefix
-- RETURNS its time to live in ms (-1: none), the same of its lock ('': it has none), its fields (none: it is gone, or not
--   claimed), the time to live of its output, the output's fields
-- USES claims
if not is_claimed(KEYS[1], ARGV[1], ARGV[2]) then
  return {-1, '', {}, -1, {}}
end

local function read_hash(key)
  local found = redis.pcall('HGETALL', key)
  return found.err and {} or found
end

local fields, lock_ttl = read_hash(KEYS[2]), ''
local lock = #fields > 0 and redis.call('HGET', KEYS[2], 'unique_key')
if lock and string.sub(lock, 1, #ARGV[3]) == ARGV[3] and redis.pcall('GET', lock) == ARGV[1] then
  lock_ttl = redis.call('PTTL', lock)
end
return {redis.call('PTTL', KEYS[2]), lock_ttl, fields, redis.call('PTTL', KEYS[3]), read_hash(KEYS[3])}
