#!lua
-- Store one pending or scheduled task under its uniqueness lock and its idempotency key.
-- A task stored by an earlier call with the same time counts as stored; so does a record with the same response.
-- KEYS pending idle scheduled retry task lock record lookup queues
--   the task's key replaces a missing lock or record, and in clusters the lookup and the queues, which are in other
--   slots
-- ARGV queue now_ns id message ttl_archived run_at lock_s fingerprint response keeps_conflict keep_s max_waiting ttl_completed active_timeout until_s notify max_ends
--   run_at: '' for immediately; lock_s: 0 until the task's end; response: not empty, unique to the request;
--   max_waiting: limit of pending, scheduled and retry tasks of the queue; 0: unlimited;
--   until_s: Redis's own clock refuses a process that was stopped for longer; '' for no limit
-- RETURNS 1 stored, 0 the id exists, -1 the record is for another body, -2 the queue is full, -3 too late, -4 the record is damaged,
--   -5 too many ends are waiting to be told; else the id of the task that
--   has the lock ('' for none) and the response of the call that created the record ('' for none or this one)
-- USES wake take_lock waiting_capacity find_enqueued are_ends_full
local now_ns, id, run_at, fingerprint, response = ARGV[2], ARGV[3], ARGV[6], ARGV[8], ARGV[9]
local task, lock, record = KEYS[5], KEYS[6], KEYS[7]

if ARGV[15] ~= '' and tonumber(redis.call('TIME')[1]) > tonumber(ARGV[15]) then
  return -3
end
if record ~= task then
  local seen = redis.pcall('HMGET', record, 'fingerprint', 'response', 'holder')
  if seen.err then
    return -4
  elseif seen[1] or seen[2] then
    if seen[1] and seen[1] ~= fingerprint then
      return -1
    elseif not seen[1] or not seen[2] then
      return -4
    elseif seen[2] ~= response then
      return {seen[3] or '', seen[2]}
    end
    return seen[3] and {seen[3], ''} or 1
  end
end

-- Clients can choose ids: the lookup of a task of another queue must stay.
local other = KEYS[8] ~= task and redis.call('HGET', KEYS[8], 'queue')
if other and other ~= ARGV[1] then
  return 0
end
local holder, found = nil, find_enqueued(task, id, now_ns, ARGV[13])
if found then
  return found
end
if lock ~= task then
  holder = take_lock(lock, id, tonumber(ARGV[7]), string.sub(task, 1, -#id - 1))
end
local refusal = nil
if not holder and waiting_capacity(tonumber(ARGV[12]), KEYS[1], KEYS[3], KEYS[4]) < 1 then
  refusal = -2
elseif not holder and are_ends_full(task, id, ARGV[16], tonumber(ARGV[17])) then
  refusal = -5
end
if refusal then
  if lock ~= task then
    redis.call('DEL', lock) -- it was free, or its task has finished
  end
  return refusal
end

if record ~= task and (not holder or ARGV[10] == '1') then
  redis.call('HSET', record, 'fingerprint', fingerprint, 'response', response)
  redis.call('EXPIRE', record, ARGV[11])
  if holder then
    redis.call('HSET', record, 'holder', holder)
  end
end
if holder then
  return {holder, ''}
end

if KEYS[8] ~= task then
  redis.call('HSET', KEYS[8], 'queue', ARGV[1])
  redis.call('SADD', KEYS[9], ARGV[1])
end
if lock ~= task then
  redis.call('HSET', task, 'unique_key', lock)
end
redis.call('HSET', task, 'ttl_archived', ARGV[5], 'ttl_completed', ARGV[13], 'active_timeout', ARGV[14])
if ARGV[16] ~= '' then
  redis.call('HSET', task, 'notify', ARGV[16])
end
if run_at == '' then
  redis.call('HSET', task, 'msg', ARGV[4], 'state', 'pending', 'pending_since', now_ns, 'enqueued', now_ns)
  redis.call('LPUSH', KEYS[1], id)
  wake(KEYS[2], 1, ARGV[1], math.floor(tonumber(now_ns) / 1000000))
else
  redis.call('HSET', task, 'msg', ARGV[4], 'state', 'scheduled', 'enqueued', now_ns)
  redis.call('ZADD', KEYS[3], run_at, id)
end
return 1
