#!lua
-- Store tasks of one Redis queue and put their ids on its pending list, in order, unless an id is taken.
-- A task that an earlier call with the same time stored counts as queued: its reply was lost.
-- KEYS pending idle task*
-- ARGV queue now_ns now_ms id_message_ttl*
-- RETURNS for each task 1 queued, 0 the id is taken
-- USES wake
local now_ns = ARGV[2]
local outcomes, ids, seen = {}, {}, {}
for i = 1, #KEYS - 2 do
  local task, id = KEYS[i + 2], ARGV[i * 3 + 1]
  if redis.call('EXISTS', task) == 0 then
    redis.call('HSET', task, 'msg', ARGV[i * 3 + 2], 'state', 'pending', 'pending_since', now_ns,
      'enqueued', now_ns, 'ttl_archived', ARGV[i * 3 + 3])
    ids[#ids + 1] = id
    outcomes[i] = 1
  elseif not seen[id] and redis.call('HGET', task, 'enqueued') == now_ns then
    outcomes[i] = 1
  else
    outcomes[i] = 0
  end
  seen[id] = true
end
if #ids > 0 then
  redis.call('LPUSH', KEYS[1], unpack(ids))
  wake(KEYS[2], #ids, ARGV[1], tonumber(ARGV[3]))
end
return outcomes
