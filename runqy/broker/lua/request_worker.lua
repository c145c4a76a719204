#!lua flags=allow-oom
-- Store a request to a worker, and have the worker send a heartbeat, which reads it, now.
-- KEYS requests
-- ARGV action request_id ttl_s channel worker_id
-- RETURNS nothing
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return false
