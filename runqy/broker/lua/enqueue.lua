#!lua
-- Index a task, store it, and push its id onto the pending list, unless the id exists. Not for clusters.
-- A task that an earlier call with the same time stored counts as enqueued: its reply was lost.
-- KEYS pending idle scheduled retry task lookup queues
-- ARGV queue now_ns now_ms max_waiting id message ttl_archived ttl_completed active_timeout notify max_ends
--   max_waiting: limit of pending, scheduled and retry tasks of the queue; 0: unlimited; notify: '' if nobody is told of the end
-- RETURNS 1 enqueued, 0 the id exists, -1 the queue is full, -5 too many ends are waiting to be told
-- USES wake waiting_capacity find_enqueued are_ends_full
local task, queue, now_ns, id = KEYS[5], ARGV[1], ARGV[2], ARGV[5]
local found = find_enqueued(task, id, now_ns, ARGV[8])
if not found and waiting_capacity(tonumber(ARGV[4]), KEYS[1], KEYS[3], KEYS[4]) < 1 then
  return -1
end
if not found and are_ends_full(task, id, ARGV[10], tonumber(ARGV[11])) then
  return -5
end
redis.call('HSET', KEYS[6], 'queue', queue)
redis.call('SADD', KEYS[7], queue)
if found then
  return found
end
redis.call('HSET', task, 'msg', ARGV[6], 'state', 'pending', 'pending_since', now_ns,
  'enqueued', now_ns, 'ttl_archived', ARGV[7], 'ttl_completed', ARGV[8], 'active_timeout', ARGV[9])
if ARGV[10] ~= '' then
  redis.call('HSET', task, 'notify', ARGV[10])
end
redis.call('LPUSH', KEYS[1], id)
wake(KEYS[2], 1, queue, tonumber(ARGV[3]))
return 1
