#!lua flags=allow-oom
-- Delete the record of a request that stored nothing, so that its idempotency key can be used again.
-- KEYS record
-- ARGV request_token
-- RETURNS 1 deleted, 0 it is of another request or was gone
if redis.pcall('HGET', KEYS[1], 'maker') ~= ARGV[1] then
  return 0
end
return redis.call('UNLINK', KEYS[1])
