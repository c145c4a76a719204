#!lua flags=allow-oom
-- Remove the lookup of a deleted task, unless it names another queue by now.
-- KEYS lookup
-- ARGV queue
-- RETURNS 1 removed, 0 it changed or was gone
if (redis.call('HGET', KEYS[1], 'queue') or '') ~= ARGV[1] then
  return 0
end
return redis.call('UNLINK', KEYS[1])
