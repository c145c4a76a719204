#!lua
-- Make tasks pending immediately. A finished task is reset: no retries spent, no cancellation, no expiry. It takes its
-- lock again, which was released when it finished, and is not run while another task has the lock.
-- `wanted` is the state that the tasks must be in ('': any but active). Ids without a task are removed from its index.
-- `fresh` is appended to the message of a finished task: in protobuf a later field overrides an earlier one.
-- KEYS pending scheduled retry archived completed idle task*
-- ARGV wanted task_prefix lock_prefix queue now_ns now_ms fresh ids*
-- RETURNS for each 1 now pending, 0 no such task, 2 active, 3 in another state or held by an aggregator, 4 already pending,
--   5 another task has its lock
-- USES in_ns remove_from_pending remove_from_index delete_task wake
local indexes = {scheduled = KEYS[2], retry = KEYS[3], archived = KEYS[4], completed = KEYS[5]}
local wanted, lock_prefix, outcomes, woken = ARGV[1], ARGV[3], {}, 0

-- Take the lock of a finished task; return whether another unfinished task has it.
local function is_locked_out(id, lock)
  if not lock or string.sub(lock, 1, #lock_prefix) ~= lock_prefix then
    return false
  end
  if redis.call('SET', lock, id, 'NX') then
    return false
  end
  local holder = redis.call('GET', lock)
  local state = redis.call('HGET', ARGV[2] .. holder, 'state')
  if holder ~= id and state and state ~= 'archived' and state ~= 'completed' then
    return true
  end
  redis.call('SET', lock, id)
  return false
end

for i = 1, #KEYS - 6 do
  local task, id = KEYS[i + 6], ARGV[i + 7]
  local seen = redis.call('HMGET', task, 'state', 'msg', 'unique_key')
  local state = seen[1]
  local is_over = state == 'archived' or state == 'completed'
  if not state or not seen[2] then
    remove_from_index(indexes, task, id, wanted, ARGV[2])
    outcomes[i] = 0
  elseif state == 'active' then
    outcomes[i] = 2
  elseif state == 'pending' then
    outcomes[i] = 4
  elseif is_over and (wanted == '' or state == wanted) and is_locked_out(id, seen[3]) then
    outcomes[i] = 5
  elseif (wanted ~= '' and state ~= wanted) or not remove_from_index(indexes, task, id, state, ARGV[2]) then
    outcomes[i] = 3
  else
    if is_over then
      redis.call('HSET', task, 'msg', seen[2] .. ARGV[7])
      redis.call('HDEL', task, 'cancel', 'child_deaths', 'shared_deaths', 'attempts', 'failures', 'result', 'retried', 'error_msg',
        'archived_at', 'progress', 'output', 'chunks', 'ended')
      redis.call('UNLINK', kept_keys(task, id))
      redis.call('PERSIST', task)
    end
    redis.call('HSET', task, 'state', 'pending', 'pending_since', ARGV[5])
    redis.call('LPUSH', KEYS[1], id)
    woken = woken + 1
    outcomes[i] = 1
  end
  if wanted ~= '' and outcomes[i] > 1 and outcomes[i] ~= 5 then
    remove_from_index(indexes, task, id, wanted, ARGV[2]) -- the index was wrong
  end
end
if woken > 0 then
  wake(KEYS[6], woken, ARGV[4], tonumber(ARGV[6]))
end
return outcomes
