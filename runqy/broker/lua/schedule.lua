#!lua
-- Store scheduled tasks of one Redis queue, unless an id exists.
-- A task that an earlier call with the same time stored counts as scheduled: its reply was lost.
-- KEYS scheduled pending retry task*
-- ARGV now_ns max_waiting id_message_limits_runat*
--   limits: ttl_archived, ttl_completed and active_timeout; max_waiting: limit of pending, scheduled and retry tasks of the queue; 0: unlimited
-- RETURNS for each task 1 scheduled, 0 the id exists, -1 the queue is full
-- USES waiting_capacity find_enqueued
local now_ns = ARGV[1]
local outcomes, seen, stored = {}, {}, 0
local capacity = waiting_capacity(tonumber(ARGV[2]), KEYS[2], KEYS[1], KEYS[3])
for i = 1, #KEYS - 3 do
  local task, first = KEYS[i + 3], i * 6 - 3
  local id = ARGV[first]
  local found = find_enqueued(task, id, now_ns, ARGV[first + 3])
  if not found and stored >= capacity then
    outcomes[i] = -1
  elseif not found then
    stored = stored + 1
    redis.call('HSET', task, 'msg', ARGV[first + 1], 'state', 'scheduled', 'enqueued', now_ns,
      'ttl_archived', ARGV[first + 2], 'ttl_completed', ARGV[first + 3], 'active_timeout', ARGV[first + 4])
    redis.call('ZADD', KEYS[1], ARGV[first + 5], id)
    outcomes[i] = 1
  else
    outcomes[i] = seen[id] and 0 or found
  end
  seen[id] = true
end
return outcomes
