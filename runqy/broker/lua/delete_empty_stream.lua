#!lua flags=allow-oom
-- Delete a stream that has no entries.
-- KEYS stream
-- RETURNS how many keys were deleted
return redis.pcall('XLEN', KEYS[1]) == 0 and redis.call('UNLINK', KEYS[1]) or 0
