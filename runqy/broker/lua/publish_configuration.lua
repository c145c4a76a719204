#!lua flags=allow-oom
-- Store signed documents and the signed list of all revisions, unless another process has published meanwhile.
-- KEYS documents revisions
-- ARGV seen_revisions new_revisions removed_count removed_and_pairs*
--   seen_revisions: the list that the new one replaces ("": there is none)
--   removed_and_pairs: the fields of removed documents, then pairs of field and document
-- RETURNS 1 stored, 0 another list is stored
if (redis.call("GET", KEYS[2]) or "") ~= ARGV[1] then
  return 0
end
local first_pair = 4 + tonumber(ARGV[3])
for i = 4, first_pair - 1 do
  redis.call("HDEL", KEYS[1], ARGV[i])
end
for i = first_pair, #ARGV, 2 do
  redis.call("HSET", KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call("SET", KEYS[2], ARGV[2])
return 1
