#!lua
-- Store tasks of one Redis queue, at once or for later, under their uniqueness locks, and once for an idempotency key.
-- A task that an earlier call with the same time stored counts as stored.
-- A record of another body or another maker is left alone, and so is what it says about this part.
-- A part of which the full queue took no task is not recorded: the same request may succeed later.
-- KEYS pending idle scheduled retry record tasks_and_locks*
--   where there is no lock the task's key stands in its place, where there is no record that of the pending list
-- ARGV queue now_ns now_ms fingerprint maker part note keep_s task_prefix max_waiting fives*
--   max_waiting: how many tasks of the queue may be pending, scheduled or to be retried; 0: any number
--   fives: id, message, ttl_archived, run_at ('' for at once) and lock_s (0: until the task's end)
-- RETURNS maker, its now_ns, its note, and for each task 1 stored, 0 the id is taken, -1 the queue is full, or which task has
--   the lock;
--   0 instead of all that if the record is for another body
-- USES wake take_lock waiting_capacity
local queue, now_ns, now_ms, fingerprint, maker, part = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local note, keep_s, task_prefix = ARGV[7], ARGV[8], ARGV[9]
local record = KEYS[5]

if fingerprint ~= '' then
  local seen = redis.call('HMGET', record, 'fingerprint', 'maker', 'now_ns', 'note:' .. part, 'outcomes:' .. part)
  if seen[1] and seen[1] ~= fingerprint then
    return 0
  elseif seen[1] and (seen[2] ~= maker or seen[5]) then
    return {seen[2], seen[3], seen[4] or '', seen[5] and cjson.decode(seen[5]) or {}}
  end
end

local outcomes, ids, seen, stored, refused = {}, {}, {}, 0, 0
local capacity = waiting_capacity(tonumber(ARGV[10]), KEYS[1], KEYS[3], KEYS[4])
for i = 1, (#KEYS - 5) / 2 do
  local task, lock, first = KEYS[i * 2 + 4], KEYS[i * 2 + 5], i * 5 + 6
  local id, run_at = ARGV[first], ARGV[first + 3]
  local holder = nil
  if redis.call('EXISTS', task) == 1 then
    outcomes[i] = not seen[id] and redis.call('HGET', task, 'enqueued') == now_ns and 1 or 0
  else
    holder = lock ~= task and take_lock(lock, id, tonumber(ARGV[first + 4]), task_prefix) or nil
    outcomes[i] = holder or 1
    if not holder and capacity < 1 then
      outcomes[i], refused = -1, refused + 1
      if lock ~= task then
        redis.call('DEL', lock) -- it was free, or its task over
      end
    elseif not holder then
      capacity = capacity - 1
      redis.call('HSET', task, 'msg', ARGV[first + 1], 'enqueued', now_ns, 'ttl_archived', ARGV[first + 2])
      if lock ~= task then
        redis.call('HSET', task, 'unique_key', lock)
      end
      if run_at == '' then
        redis.call('HSET', task, 'state', 'pending', 'pending_since', now_ns)
        redis.call('LPUSH', KEYS[1], id)
        ids[#ids + 1] = id
      else
        redis.call('HSET', task, 'state', 'scheduled')
        redis.call('ZADD', KEYS[3], run_at, id)
      end
    end
  end
  stored = stored + (outcomes[i] == 1 and 1 or 0)
  seen[id] = true
end
if #ids > 0 then
  wake(KEYS[2], #ids, queue, now_ms)
end
if fingerprint ~= '' and (stored > 0 or refused == 0) then
  redis.call('HSET', record, 'fingerprint', fingerprint, 'maker', maker, 'now_ns', now_ns,
    'note:' .. part, note, 'outcomes:' .. part, cjson.encode(outcomes))
  redis.call('EXPIRE', record, keep_s, 'NX')
end
return {maker, now_ns, note, outcomes}
