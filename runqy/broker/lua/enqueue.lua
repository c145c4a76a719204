#!lua
-- Store tasks of one Redis queue and put their ids on its pending list, in order, unless an id is taken.
-- A task that an earlier call with the same time stored counts as queued: its reply was lost.
-- KEYS pending idle scheduled retry task*
-- ARGV queue now_ns now_ms max_waiting id_message_ttl*
--   max_waiting: how many tasks of the queue may be pending, scheduled or to be retried; 0: any number
-- RETURNS for each task 1 queued, 0 the id is taken, -1 the queue is full
-- USES wake waiting_capacity
local now_ns = ARGV[2]
local outcomes, ids, seen = {}, {}, {}
local capacity = waiting_capacity(tonumber(ARGV[4]), KEYS[1], KEYS[3], KEYS[4])
for i = 1, #KEYS - 4 do
  local task, first = KEYS[i + 4], i * 3 + 2
  local id = ARGV[first]
  local is_new = redis.call('EXISTS', task) == 0
  if is_new and #ids >= capacity then
    outcomes[i] = -1
  elseif is_new then
    redis.call('HSET', task, 'msg', ARGV[first + 1], 'state', 'pending', 'pending_since', now_ns,
      'enqueued', now_ns, 'ttl_archived', ARGV[first + 2])
    ids[#ids + 1] = id
    outcomes[i] = 1
  elseif not seen[id] and redis.call('HGET', task, 'enqueued') == now_ns then
    outcomes[i] = 1
  else
    outcomes[i] = 0
  end
  seen[id] = true
end
if #ids > 0 then
  redis.call('LPUSH', KEYS[1], unpack(ids))
  wake(KEYS[2], #ids, ARGV[1], tonumber(ARGV[3]))
end
return outcomes
