#!lua flags=allow-oom
-- Take tasks out of an index and record them as claimed for a move, up to `limit` of them and about `max_bytes`.
-- Of the pending list the newest are taken, so that workers go on with the oldest meanwhile.
-- Ids without a task, and ids whose state names another index that lists them, are only removed from the index. So are
-- ids whose key is not a hash, which is deleted.
-- In a sorted set, those that were refused before come last: `offsets` has how many are at its start.
-- A claim is `<token> <state> <score> <position> <destination>`; the task's field `moving` has the token. Positions have
-- the order in which tasks were claimed, whoever claims them: Redis's time, then the place in this slice (`limit` is
-- below 10,000). After a failover to a clock that is behind, claims of before may be out of order.
-- KEYS claims index offsets
-- ARGV state task_prefix token destination limit max_bytes
-- RETURNS how many ids left the index
-- USES release_lock delete_task has_index
local claims, index, offsets = KEYS[1], KEYS[2], KEYS[3]
local state, prefix, token, destination = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local is_list = state == 'pending'
local queue_prefix = string.sub(prefix, 1, -3)

local function is_in(index_name, id)
  return type(redis.pcall('ZSCORE', queue_prefix .. index_name, id)) == 'string' -- false, or an error for another type
end

local function is_listed_elsewhere(id, seen)
  if seen == 'active' then
    return is_in('lease', id)
  end
  if seen ~= state and has_index(seen) then
    return is_in(seen, id)
  end
  return false
end

local function next_in_sorted_set()
  local offset, last = tonumber(redis.call('HGET', offsets, index) or '') or 0, ARGV[5] - 1
  local found = redis.call('ZRANGE', index, offset, offset + last, 'WITHSCORES')
  if #found == 0 and offset > 0 then
    redis.call('HDEL', offsets, index)
    return redis.call('ZRANGE', index, 0, last, 'WITHSCORES')
  end
  return found
end

redis.call('HLEN', claims) -- fails before anything is written if the claims are not a hash
local time = redis.call('TIME')
local began = time[1] .. string.format('%06d', time[2])
local found = is_list and redis.call('LRANGE', index, 0, ARGV[5] - 1) or next_in_sorted_set()
local step, bytes, left = is_list and 1 or 2, 0, 0
for i = 1, #found, step do
  local id, score = found[i], is_list and '' or found[i + 1]
  local task = prefix .. id
  local seen = redis.pcall('HMGET', task, 'msg', 'state', 'moving') -- an error has no fields either
  if seen[1] then
    local output = redis.call('MEMORY', 'USAGE', output_key(task, id), 'SAMPLES', 0) or 0
    bytes = bytes + #seen[1] + redis.call('HSTRLEN', task, 'result') + output
  end
  if left > 0 and bytes > tonumber(ARGV[6]) then
    break
  end
  if is_list then
    redis.call('LPOP', index)
  else
    redis.call('ZREM', index, id)
  end
  left = left + 1
  local position = began .. string.format('%04d', left)
  if not seen[1] then
    unlink_task(task, id) -- a hash without a message would block its id forever
  elseif not seen[3] and not is_listed_elsewhere(id, seen[2]) then
    redis.call('HSET', task, 'moving', token)
    redis.call('HSET', claims, id, table.concat({token, state, score == '' and '-' or score, position, destination}, ' '))
  end
end
return left
