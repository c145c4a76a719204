#!lua flags=allow-oom
-- Publish changed queues to workers: a queue's token only grows, and each increase is published.
-- KEYS tokens
-- ARGV channel triples*
--   triples: queue, token (a number), and a stored token to overwrite even if it is higher ("")
-- RETURNS the number of queues whose token changed
local changed = 0
for i = 2, #ARGV, 3 do
  local queue, token, overwritable = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local published = redis.call("HGET", KEYS[1], queue)
  if published ~= token and (not published or published == overwritable or (tonumber(published) or 0) < tonumber(token)) then
    redis.call("HSET", KEYS[1], queue, token)
    redis.call("PUBLISH", ARGV[1], queue)
    changed = changed + 1
  end
end
return changed
