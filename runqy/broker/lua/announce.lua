#!lua flags=allow-oom
-- Tell workers which queues changed: each queue's token only grows, and growing is published.
-- KEYS tokens
-- ARGV channel triples*
--   triples: queue, token (a number), and the token seen that may be overwritten although it is not lower ("")
-- RETURNS the number of queues whose token changed
local changed = 0
for i = 2, #ARGV, 3 do
  local queue, token, overwritable = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local standing = redis.call("HGET", KEYS[1], queue)
  if standing ~= token and (not standing or standing == overwritable or (tonumber(standing) or 0) < tonumber(token)) then
    redis.call("HSET", KEYS[1], queue, token)
    redis.call("PUBLISH", ARGV[1], queue)
    changed = changed + 1
  end
end
return changed
