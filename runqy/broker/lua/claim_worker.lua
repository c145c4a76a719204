#!lua flags=allow-oom
-- Store which owner registered a worker id, unless the claim has changed since it was read.
-- KEYS registrations
-- ARGV worker_id known content
-- RETURNS 1 stored, 0 another registration came first
-- An empty `known` means that nothing was stored.
local present = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if present ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
