#!lua
-- Note where a task is, store it, and put its id on its queue's pending list, unless the id is taken. Not for clusters.
-- A task that an earlier call with the same time stored counts as queued: its reply was lost.
-- KEYS pending idle task lookup queues
-- ARGV queue now_ns now_ms id message ttl_archived
-- RETURNS 1 queued, 0 the id is taken
-- USES wake
local task, queue, now_ns, id = KEYS[3], ARGV[1], ARGV[2], ARGV[4]
redis.call('HSET', KEYS[4], 'queue', queue)
redis.call('SADD', KEYS[5], queue)
if redis.call('EXISTS', task) == 1 then
  return redis.call('HGET', task, 'enqueued') == now_ns and 1 or 0
end
redis.call('HSET', task, 'msg', ARGV[5], 'state', 'pending', 'pending_since', now_ns,
  'enqueued', now_ns, 'ttl_archived', ARGV[6])
redis.call('LPUSH', KEYS[1], id)
wake(KEYS[2], 1, queue, tonumber(ARGV[3]))
return 1
