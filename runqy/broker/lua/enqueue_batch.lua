#!lua
-- Store tasks of one Redis queue and push their ids onto the pending list, in order, unless an id exists.
-- A task that an earlier call with the same time stored counts as enqueued: its reply was lost.
-- KEYS pending idle scheduled retry task*
-- ARGV queue now_ns now_ms max_waiting id_message_limits*
--   limits: ttl_archived, ttl_completed and active_timeout; max_waiting: limit of pending, scheduled and retry tasks of the queue; 0: unlimited
-- RETURNS for each task 1 enqueued, 0 the id exists, -1 the queue is full
-- USES wake waiting_capacity
local now_ns = ARGV[2]
local outcomes, ids, seen = {}, {}, {}
local capacity = waiting_capacity(tonumber(ARGV[4]), KEYS[1], KEYS[3], KEYS[4])
local may_exist = redis.call('EXISTS', unpack(KEYS, 5)) > 0 -- one call for all: almost always none does
for i = 1, #KEYS - 4 do
  local task, first = KEYS[i + 4], i * 5
  local id = ARGV[first]
  local is_new = not seen[id] and not (may_exist and redis.call('EXISTS', task) == 1)
  if is_new and #ids >= capacity then
    outcomes[i] = -1
  elseif is_new then
    redis.call('HSET', task, 'msg', ARGV[first + 1], 'state', 'pending', 'pending_since', now_ns,
      'enqueued', now_ns, 'ttl_archived', ARGV[first + 2], 'ttl_completed', ARGV[first + 3],
      'active_timeout', ARGV[first + 4])
    ids[#ids + 1] = id
    outcomes[i], seen[id] = 1, true
  elseif not seen[id] and redis.call('HGET', task, 'enqueued') == now_ns then
    outcomes[i], seen[id] = 1, true
  else
    outcomes[i], seen[id] = 0, true
  end
end
if #ids > 0 then
  redis.call('LPUSH', KEYS[1], unpack(ids))
  wake(KEYS[2], #ids, ARGV[1], tonumber(ARGV[3]))
end
return outcomes
