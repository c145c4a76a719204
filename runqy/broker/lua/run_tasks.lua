#!lua
-- Make tasks pending at once. One that is over starts anew: no retries spent, no trace of a cancel, nothing that expires,
-- under the lock that it was made under, which its end had freed; not while another task has that.
-- `wanted` is the state that they have to be in ('': any but active). Ids without a task are dropped from its index.
-- `fresh` goes behind the message of one that was over: in protobuf a later field overrides an earlier one.
-- KEYS pending scheduled retry archived completed idle task*
-- ARGV wanted task_prefix lock_prefix queue now_ns now_ms fresh ids*
-- RETURNS for each 1 pending now, 0 no such task, 2 it runs, 3 it is in another state or in an aggregator's hands, 4 it was pending,
--   5 another task has its lock
-- USES leave_index wake
local indexes = {scheduled = KEYS[2], retry = KEYS[3], archived = KEYS[4], completed = KEYS[5]}
local wanted, lock_prefix, outcomes, woken = ARGV[1], ARGV[3], {}, 0

-- Take the lock of a task that is over anew; tell whether another, which waits or runs, has it.
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
    leave_index(indexes, task, id, wanted, ARGV[2])
    outcomes[i] = 0
  elseif state == 'active' then
    outcomes[i] = 2
  elseif state == 'pending' then
    outcomes[i] = 4
  elseif is_over and (wanted == '' or state == wanted) and is_locked_out(id, seen[3]) then
    outcomes[i] = 5
  elseif (wanted ~= '' and state ~= wanted) or not leave_index(indexes, task, id, state, ARGV[2]) then
    outcomes[i] = 3
  else
    if is_over then
      redis.call('HSET', task, 'msg', seen[2] .. ARGV[7])
      redis.call('HDEL', task, 'cancel', 'child_deaths', 'attempts', 'result', 'retried', 'error_msg')
      redis.call('PERSIST', task)
    end
    redis.call('HSET', task, 'state', 'pending', 'pending_since', ARGV[5])
    redis.call('LPUSH', KEYS[1], id)
    woken = woken + 1
    outcomes[i] = 1
  end
  if wanted ~= '' and outcomes[i] > 1 and outcomes[i] ~= 5 then
    leave_index(indexes, task, id, wanted, ARGV[2]) -- the index was wrong about it
  end
end
if woken > 0 then
  wake(KEYS[6], woken, ARGV[4], tonumber(ARGV[6]))
end
return outcomes
