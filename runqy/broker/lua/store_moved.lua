#!lua
-- Store a task that was claimed in another Redis queue, with its output, once. A pending one goes to the front: it waits
-- for longer than those that were enqueued here.
-- `moved` has the ids that this claim stored: a task may have run and been deleted before the claim is finished. `refused`
-- has those that it did not store and never will: another process may have put them back since.
-- Redis's own clock refuses a process that was stopped for longer than the two are kept.
-- KEYS moved refused task output index groups lock idle
-- ARGV id state score group queue now_ms until_s keep_moved_s ttl_ms lock_ttl_ms output_ttl_ms field_count rest*
--   ttl_ms, lock_ttl_ms: -1 for unlimited; lock_ttl_ms: '' without a lock; rest: the fields and values of the task
--   (field_count items), then those of its output
-- RETURNS 1 stored, 2 stored before, 0 another task has or had the id, -1 too late
-- USES wake
local moved, refused, task, output, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, state = ARGV[1], ARGV[2]

local function set_fields(key, first, last)
  for i = first, last, 2 do
    redis.call('HSET', key, ARGV[i], ARGV[i + 1])
  end
end

if redis.call('SISMEMBER', moved, id) == 1 then
  redis.call('EXPIRE', moved, ARGV[8])
  return 2
end
if redis.call('SISMEMBER', refused, id) == 1 then
  return 0
end
if tonumber(redis.call('TIME')[1]) > tonumber(ARGV[7]) then
  return -1
end
if redis.call('EXISTS', task) == 1 then
  redis.call('SADD', refused, id)
  redis.call('EXPIRE', refused, ARGV[8])
  return 0
end
redis.call(state == 'pending' and 'LLEN' or 'ZCARD', index) -- fails before anything is written if it has another type
if state == 'aggregating' then
  redis.call('SCARD', KEYS[6])
end
redis.call('SADD', moved, id)
redis.call('EXPIRE', moved, ARGV[8])
local first_of_output = 13 + tonumber(ARGV[12])
set_fields(task, 13, first_of_output - 1)
redis.call('HSET', task, 'state', state)
if tonumber(ARGV[9]) > 0 then
  redis.call('PEXPIRE', task, ARGV[9])
end
redis.call('UNLINK', output) -- of an earlier task with this id
if tonumber(ARGV[11]) > 0 and #ARGV > first_of_output then
  set_fields(output, first_of_output, #ARGV)
  redis.call('PEXPIRE', output, ARGV[11])
end
if ARGV[10] == '-1' then
  redis.call('SET', KEYS[7], id, 'NX')
elseif ARGV[10] ~= '' and tonumber(ARGV[10]) > 0 then
  redis.call('SET', KEYS[7], id, 'NX', 'PX', ARGV[10])
end
if state == 'pending' then
  redis.call('RPUSH', index, id)
  wake(KEYS[8], 1, ARGV[5], tonumber(ARGV[6]))
else
  redis.call('ZADD', index, ARGV[3], id)
  if state == 'aggregating' then
    redis.call('SADD', KEYS[6], ARGV[4])
  end
end
return 1
