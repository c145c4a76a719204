#!lua
-- Note where a task is, store it, and put its id on its queue's pending list, unless the id is taken. Not for clusters.
-- A task that an earlier call with the same time stored counts as queued: its reply was lost.
-- KEYS pending idle scheduled retry task lookup queues
-- ARGV queue now_ns now_ms max_waiting id message ttl_archived
--   max_waiting: how many tasks of the queue may be pending, scheduled or to be retried; 0: any number
-- RETURNS 1 queued, 0 the id is taken, -1 the queue is full
-- USES wake waiting_capacity
local task, queue, now_ns, id = KEYS[5], ARGV[1], ARGV[2], ARGV[5]
local exists = redis.call('EXISTS', task) == 1
if not exists and waiting_capacity(tonumber(ARGV[4]), KEYS[1], KEYS[3], KEYS[4]) < 1 then
  return -1
end
redis.call('HSET', KEYS[6], 'queue', queue)
redis.call('SADD', KEYS[7], queue)
if exists then
  return redis.call('HGET', task, 'enqueued') == now_ns and 1 or 0
end
redis.call('HSET', task, 'msg', ARGV[6], 'state', 'pending', 'pending_since', now_ns,
  'enqueued', now_ns, 'ttl_archived', ARGV[7])
redis.call('LPUSH', KEYS[1], id)
wake(KEYS[2], 1, queue, tonumber(ARGV[3]))
return 1
