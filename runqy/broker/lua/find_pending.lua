#!lua flags=no-writes
-- Find ids in a slice of the pending list, counted from its left end.
-- KEYS pending
-- ARGV offset limit ids*
-- RETURNS the size of the slice, and those of the ids that are in it
local slice = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[1] + ARGV[2] - 1)
local wanted, found = {}, {}
for i = 3, #ARGV do
  wanted[ARGV[i]] = true
end
for _, id in ipairs(slice) do
  if wanted[id] then
    found[#found + 1] = id
  end
end
return {#slice, found}
