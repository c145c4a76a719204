#!lua flags=allow-oom
-- Store a registration's part in a Redis user; a full Redis must not keep workers away, for they drain it.
-- KEYS users
-- ARGV field content
-- RETURNS 1 it is new, 0 it replaced another
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
