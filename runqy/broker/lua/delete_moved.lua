#!lua flags=allow-oom
-- Delete a task that was stored in another Redis queue, with its lock and output, if it is still claimed with this token.
-- KEYS claims task
-- ARGV id token lock_prefix
-- RETURNS 1 deleted, 0 not claimed with this token
-- USES release_lock delete_task claims
if not is_claimed(KEYS[1], ARGV[1], ARGV[2]) then
  return 0
end
if redis.call('TYPE', KEYS[2]).ok == 'hash' then
  release_task_lock(KEYS[2], ARGV[1], ARGV[3])
end
unlink_task(KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
