#!lua flags=allow-oom
-- Notify the workers of changed queues: a queue's revision only grows, and each increase is published.
-- KEYS revisions
-- ARGV channel triples*
--   triples: queue, revision, and a stored revision to overwrite even if it is higher ("")
-- RETURNS the number of queues whose revision changed
local changed = 0
for i = 2, #ARGV, 3 do
  local queue, revision, overwritable = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local stored = redis.call("HGET", KEYS[1], queue)
  if stored ~= revision and (not stored or stored == overwritable or (tonumber(stored) or 0) < tonumber(revision)) then
    redis.call("HSET", KEYS[1], queue, revision)
    redis.call("PUBLISH", ARGV[1], queue)
    changed = changed + 1
  end
end
return changed
