#!lua flags=allow-oom
-- Delete the output and the chunks of a task that does not exist.
-- KEYS task output chunks
-- RETURNS how many of the two were deleted; 0 if the task exists
return redis.call('EXISTS', KEYS[1]) == 0 and redis.call('UNLINK', KEYS[2], KEYS[3]) or 0
