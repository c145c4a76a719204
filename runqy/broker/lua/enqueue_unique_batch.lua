#!lua
-- Store pending or scheduled tasks of one Redis queue under their uniqueness locks and an idempotency key.
-- A task that an earlier call with the same time stored counts as stored.
-- A record of another body or another request_token is not changed, nor is what it holds about this part.
-- If the queue was full for all tasks of a part, the part is not recorded: the same request may succeed later.
-- KEYS pending idle scheduled retry record tasks_and_locks*
--   the task's key replaces a missing lock, that of the pending list a missing record
-- ARGV queue now_ns now_ms fingerprint request_token part response keep_s task_prefix max_waiting max_ends eights*
--   max_waiting: limit of pending, scheduled and retry tasks of the queue; 0: unlimited
--   eights: id, message, ttl_archived, ttl_completed, active_timeout, run_at ('' for immediately), lock_s (0: until the
--     task's end) and notify ('': nobody is told of the end)
-- RETURNS request_token, its now_ns, its response, and for each task 1 stored, 0 the id exists, -1 the queue is full, -5 too many
--   ends are waiting to be told, or the id of the task that has the lock;
--   only 0 if the record is for another body, -4 if it is damaged
-- USES wake take_lock waiting_capacity find_enqueued are_ends_full
local queue, now_ns, now_ms, fingerprint, request_token, part = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local response, keep_s, task_prefix = ARGV[7], ARGV[8], ARGV[9]
local record = KEYS[5]

if fingerprint ~= '' then
  local seen = redis.pcall('HMGET', record, 'fingerprint', 'request_token', 'now_ns', 'response:' .. part, 'outcomes:' .. part)
  if seen.err then
    return -4
  elseif seen[1] and seen[1] ~= fingerprint then
    return 0
  elseif (seen[1] or seen[2]) and not (seen[1] and seen[2] and seen[3]) then
    return -4
  elseif seen[1] and (seen[2] ~= request_token or seen[5]) then
    local is_json, outcomes = pcall(cjson.decode, seen[5] or '[]')
    return is_json and type(outcomes) == 'table' and {seen[2], seen[3], seen[4] or '', outcomes} or -4
  end
end

local outcomes, ids, seen, stored, refused = {}, {}, {}, 0, 0
local capacity = waiting_capacity(tonumber(ARGV[10]), KEYS[1], KEYS[3], KEYS[4])
for i = 1, (#KEYS - 5) / 2 do
  local task, lock, first = KEYS[i * 2 + 4], KEYS[i * 2 + 5], i * 8 + 4
  local id, run_at = ARGV[first], ARGV[first + 5]
  local holder, found = nil, find_enqueued(task, id, now_ns, ARGV[first + 3])
  if found then
    outcomes[i] = seen[id] and 0 or found
  else
    holder = lock ~= task and take_lock(lock, id, tonumber(ARGV[first + 6]), task_prefix) or nil
    outcomes[i] = holder or 1
    local notify = ARGV[first + 7]
    local is_full = not holder and are_ends_full(task, id, notify, tonumber(ARGV[11]))
    if not holder and (capacity < 1 or is_full) then
      outcomes[i], refused = is_full and -5 or -1, refused + 1
      if lock ~= task then
        redis.call('DEL', lock) -- it was free, or its task has finished
      end
    elseif not holder then
      capacity = capacity - 1
      redis.call('HSET', task, 'msg', ARGV[first + 1], 'enqueued', now_ns, 'ttl_archived', ARGV[first + 2],
        'ttl_completed', ARGV[first + 3], 'active_timeout', ARGV[first + 4])
      if notify ~= '' then
        redis.call('HSET', task, 'notify', notify)
      end
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
  redis.call('HSET', record, 'fingerprint', fingerprint, 'request_token', request_token, 'now_ns', now_ns,
    'response:' .. part, response, 'outcomes:' .. part, cjson.encode(outcomes))
  redis.call('EXPIRE', record, keep_s, 'NX')
end
return {request_token, now_ns, response, outcomes}
