#!lua
-- Store tasks of one Redis queue and push their ids onto the pending list, in order, unless an id exists.
-- A task that an earlier call with the same time stored counts as enqueued: its reply was lost.
-- KEYS pending idle scheduled retry task*
-- ARGV queue now_ns now_ms max_waiting max_ends groups*
--   groups of consecutive tasks with the same limits: their number, ttl_archived, ttl_completed, active_timeout and
--     notify ('': nobody is told of the end), and then the id and the message of each
--   max_waiting: limit of pending, scheduled and retry tasks of the queue; 0: unlimited
-- RETURNS for each task 1 enqueued, 0 the id exists, -1 the queue is full, -5 too many ends are waiting to be told
-- USES wake waiting_capacity find_enqueued are_ends_full
local now_ns = ARGV[2]
local outcomes, ids, seen = {}, {}, {}
local capacity = waiting_capacity(tonumber(ARGV[4]), KEYS[1], KEYS[3], KEYS[4])
local may_exist = redis.call('EXISTS', unpack(KEYS, 5)) > 0 -- one call for all: almost always none does
local find = may_exist and find_enqueued or find_deleted
local position, left_in_group = 6, 0
local ttl_archived, ttl_completed, active_timeout, notify, is_full
for i = 1, #KEYS - 4 do
  if left_in_group == 0 then
    left_in_group = tonumber(ARGV[position])
    ttl_archived, ttl_completed, active_timeout = ARGV[position + 1], ARGV[position + 2], ARGV[position + 3]
    notify = ARGV[position + 4]
    is_full = are_ends_full(KEYS[i + 4], ARGV[position + 5], notify, tonumber(ARGV[5]))
    position = position + 5
  end
  local task, id, message = KEYS[i + 4], ARGV[position], ARGV[position + 1]
  position, left_in_group = position + 2, left_in_group - 1
  local found = seen[id] and 0 or find(task, id, now_ns, ttl_completed)
  if not found and #ids >= capacity then
    outcomes[i] = -1
  elseif not found and is_full then
    outcomes[i] = -5
  elseif not found then
    redis.call('HSET', task, 'msg', message, 'state', 'pending', 'pending_since', now_ns, 'enqueued', now_ns,
      'ttl_archived', ttl_archived, 'ttl_completed', ttl_completed, 'active_timeout', active_timeout)
    if notify ~= '' then
      redis.call('HSET', task, 'notify', notify)
    end
    ids[#ids + 1] = id
    outcomes[i], seen[id] = 1, true
  else
    outcomes[i], seen[id] = found, true
  end
end
if #ids > 0 then
  redis.call('LPUSH', KEYS[1], unpack(ids))
  wake(KEYS[2], #ids, ARGV[1], tonumber(ARGV[3]))
end
return outcomes
