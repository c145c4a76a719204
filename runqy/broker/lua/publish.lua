-- Store signed documents unless newer ones stand in their places, and renew the digest when anything changed.
-- KEYS documents revisions digest
-- ARGV new_digest quadruples*
--   quadruples: field, revision, content, and the revision seen that may be overwritten although it is not lower ("")
-- RETURNS for each document 1 stored, 0 it stood there already, -1 a newer one stands
local outcomes = {}
local is_changed = redis.call("EXISTS", KEYS[3]) == 0
for i = 2, #ARGV, 4 do
  local field, revision, content, overwritable = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local standing = redis.call("HGET", KEYS[2], field)
  local outcome = 1
  if standing and standing ~= overwritable and (tonumber(standing) or 0) > tonumber(revision) then
    outcome = -1
  elseif standing == revision and redis.call("HGET", KEYS[1], field) == content then
    outcome = 0
  else
    redis.call("HSET", KEYS[1], field, content)
    redis.call("HSET", KEYS[2], field, revision)
    is_changed = true
  end
  outcomes[#outcomes + 1] = outcome
end
if is_changed then
  redis.call("SET", KEYS[3], ARGV[1])
end
return outcomes
