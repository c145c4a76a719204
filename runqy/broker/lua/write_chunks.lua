#!lua
-- Append what runs of one queue's tasks streamed to their chunks, and notify clients that wait for them.
-- Each run has two keys, its task's hash and its chunks, and the arguments lease_token, run_number, offset of the first
-- entry, retention_s, ended_channel, the number of entries, and these. Entries that were written before are skipped.
-- Nothing is written while some before the offset are missing, as after a failover. The chunks of an earlier run are
-- replaced. A worker whose run begins again raises its number.
-- KEYS task_and_chunks*
-- ARGV kept_s ttl_archived runs*
--   ttl_archived: of tasks of other producers, which have none
-- RETURNS for each the number of chunks that are stored now, -1 lease lost
-- USES has_lease stored_chunks
local PAGE = 500 -- Lua limits the arguments of a call
local function append(task, chunks, stored, run_number, offset, first, last, ttl_s, channel)
  local length = stored and redis.pcall('LLEN', chunks) or 0
  if not stored or type(length) ~= 'number' then
    redis.call('UNLINK', chunks) -- of an earlier run, or of another type
    length = 0
  end
  local stop = offset + last - first + 1
  if offset > length or stop <= length then
    return length
  end
  for i = first + length - offset, last, PAGE do
    redis.call('RPUSH', chunks, unpack(ARGV, i, math.min(i + PAGE - 1, last)))
  end
  redis.call('EXPIRE', chunks, ttl_s)
  redis.call('HSET', task, 'chunks', run_number .. ':' .. string.format('%.0f', stop))
  redis.call('PUBLISH', channel, 'chunks')
  return stop
end

local outcomes, at = {}, 3
for i = 1, #KEYS / 2 do
  local task, chunks = KEYS[2 * i - 1], KEYS[2 * i]
  local token, run_number, offset, retention_s, channel, count = unpack(ARGV, at, at + 5)
  local first, seen = at + 6, redis.call('HMGET', task, 'owner', 'finished_by', 'state', 'runs', 'chunks', 'ttl_archived')
  at = first + tonumber(count)
  outcomes[i] = -1
  local last_run = tonumber(seen[4] or '') or 0
  if has_lease(token, seen[1], seen[2], seen[3]) and tonumber(run_number) >= last_run then
    if tonumber(run_number) > last_run then
      redis.call('HSET', task, 'runs', run_number)
      redis.call('HDEL', task, 'chunks')
      redis.call('PUBLISH', channel, 'chunks')
    end
    local ttl_s = tonumber(ARGV[1]) + math.max(tonumber(retention_s), tonumber(seen[6] or '') or tonumber(ARGV[2]))
    local stored = stored_chunks(seen[5], run_number)
    outcomes[i] = append(task, chunks, stored, run_number, tonumber(offset), first, at - 1, ttl_s, channel)
  end
end
return outcomes
