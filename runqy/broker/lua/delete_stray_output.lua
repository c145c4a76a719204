#!lua flags=allow-oom
-- Delete the output of a task that does not exist.
-- KEYS task output
-- RETURNS 1 deleted, 0 the task exists, or has no output
return redis.call('EXISTS', KEYS[1]) == 0 and redis.call('UNLINK', KEYS[2]) or 0
