#!lua flags=allow-oom
-- Store signed documents unless newer ones stand in their places, then the head unless a newer one stands.
-- KEYS documents revisions head_key
-- ARGV head head_revision head_overwrites quadruples*
--   head: empty leaves the head alone; head_overwrites: the head seen that is overwritten although it is not lower ("")
--   quadruples: field, revision, content, and the revision seen that may be overwritten although it is not lower ("")
-- RETURNS for the head, then for each document 1 stored, 0 left alone or there already, -1 a newer one stands
local outcomes = { 0 }
for i = 4, #ARGV, 4 do
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
  end
  outcomes[#outcomes + 1] = outcome
end
if ARGV[1] ~= "" then
  local standing = redis.call("GET", KEYS[3]) or ""
  local revision = tonumber(string.match(standing, "^head (%d+) ")) or 0
  if standing ~= ARGV[3] and revision > tonumber(ARGV[2]) then
    outcomes[1] = -1
  else
    redis.call("SET", KEYS[3], ARGV[1])
    outcomes[1] = 1
  end
end
return outcomes
