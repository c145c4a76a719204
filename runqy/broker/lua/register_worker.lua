#!lua flags=allow-oom
-- List a worker until it expires. Allowed when Redis is full, or its workers would appear dead.
-- KEYS index
-- ARGV expires_at_s member
-- RETURNS 1 added, 0 it was listed
return redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
