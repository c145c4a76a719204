#!lua flags=allow-oom
-- List a worker until it expires; a full Redis must not make workers look dead.
-- KEYS index
-- ARGV expires_at_s member
-- RETURNS 1 it is new, 0 it was listed
return redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
