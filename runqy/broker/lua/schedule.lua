#!lua
-- Store tasks of one Redis queue that run later, unless an id is taken.
-- A task that an earlier call with the same time stored counts as scheduled: its reply was lost.
-- KEYS scheduled task*
-- ARGV now_ns id_message_ttl_runat*
-- RETURNS for each task 1 scheduled, 0 the id is taken
local now_ns = ARGV[1]
local outcomes, seen = {}, {}
for i = 1, #KEYS - 1 do
  local task, first = KEYS[i + 1], i * 4 - 2
  local id = ARGV[first]
  if redis.call('EXISTS', task) == 0 then
    redis.call('HSET', task, 'msg', ARGV[first + 1], 'state', 'scheduled', 'enqueued', now_ns,
      'ttl_archived', ARGV[first + 2])
    redis.call('ZADD', KEYS[1], ARGV[first + 3], id)
    outcomes[i] = 1
  elseif not seen[id] and redis.call('HGET', task, 'enqueued') == now_ns then
    outcomes[i] = 1
  else
    outcomes[i] = 0
  end
  seen[id] = true
end
return outcomes
