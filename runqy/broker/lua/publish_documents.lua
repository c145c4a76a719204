#!lua flags=allow-oom
-- Store signed documents unless newer ones are stored, then the head unless a newer one is stored.
-- KEYS documents revisions head_key
-- ARGV head head_revision head_overwrites quadruples*
--   head: empty keeps the stored one; head_overwrites: a stored head to overwrite even if it is higher ("")
--   quadruples: field, revision, content, and a stored revision to overwrite even if it is higher ("")
-- RETURNS for the head, then for each document 1 stored, 0 unchanged, -1 a newer one is stored
local outcomes = { 0 }
for i = 4, #ARGV, 4 do
  local field, revision, content, overwritable = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local published = redis.call("HGET", KEYS[2], field)
  local outcome = 1
  if published and published ~= overwritable and (tonumber(published) or 0) > tonumber(revision) then
    outcome = -1
  elseif published == revision and redis.call("HGET", KEYS[1], field) == content then
    outcome = 0
  else
    redis.call("HSET", KEYS[1], field, content)
    redis.call("HSET", KEYS[2], field, revision)
  end
  outcomes[#outcomes + 1] = outcome
end
if ARGV[1] ~= "" then
  local published = redis.call("GET", KEYS[3]) or ""
  local revision = tonumber(string.match(published, "^head (%d+) ")) or 0
  if published ~= ARGV[3] and revision > tonumber(ARGV[2]) then
    outcomes[1] = -1
  else
    redis.call("SET", KEYS[3], ARGV[1])
    outcomes[1] = 1
  end
end
return outcomes
