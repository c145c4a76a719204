#!lua flags=allow-oom
-- Hand out waiting tasks to a worker's free slots, each with a lease and an owner, in the order each slot prefers.
-- Ids without a task, and ids whose state names another index that lists them, are dropped from the pending list.
-- A worker with slots left is noted as idle; one without passes its wake-up on while tasks are left.
-- For each queue five keys (pending active lease paused idle), and a name and the prefix of its tasks' keys;
-- for each slot its owner and the queues' positions in the order in which to look (0: nowhere).
-- KEYS queue_keys*
-- ARGV worker now_ns now_ms lease_end_s wake_channel idle_until_ms has_more_slots is_repeat queue_count rest*
-- RETURNS for each task taken: position of its queue, id, owner, message, child deaths
-- USES wake
local worker, now_ns, now_ms, lease_end_s = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local channel, idle_until_ms, has_more_slots, is_repeat = ARGV[5], ARGV[6], ARGV[7] == '1', ARGV[8] == '1'
local queue_count = tonumber(ARGV[9])
local first_slot = 10 + 2 * queue_count
local slot_count = (#ARGV - first_slot + 1) / (queue_count + 1)
local drops_left = 1000

local queues = {}
for i = 1, queue_count do
  local base = (i - 1) * 5
  queues[i] = {
    pending = KEYS[base + 1], active = KEYS[base + 2], lease = KEYS[base + 3], idle = KEYS[base + 5],
    name = ARGV[9 + i], prefix = ARGV[9 + queue_count + i],
    is_dry = redis.call('EXISTS', KEYS[base + 4]) == 1,
  }
end

local function is_listed_elsewhere(queue, id, state)
  if state == 'active' then
    return redis.call('ZSCORE', queue.lease, id)
  end
  if state == 'scheduled' or state == 'retry' or state == 'archived' or state == 'completed' then
    return redis.call('ZSCORE', string.sub(queue.prefix, 1, -3) .. state, id)
  end
  return false
end

local function take_from(position, owner)
  local queue = queues[position]
  while queue and not queue.is_dry and drops_left > 0 do
    local id = redis.call('RPOP', queue.pending)
    if not id then
      queue.is_dry = true
      return nil
    end
    local task = queue.prefix .. id
    local found = redis.call('HMGET', task, 'msg', 'state', 'child_deaths', 'attempts')
    if found[1] and not is_listed_elsewhere(queue, id, found[2]) then
      redis.call('LPUSH', queue.active, id)
      redis.call('ZADD', queue.lease, lease_end_s, id)
      redis.call('HSET', task, 'state', 'active', 'owner', owner, 'worker', worker, 'started', now_ns,
        'attempts', (tonumber(found[4]) or 0) + 1)
      redis.call('HDEL', task, 'pending_since', 'cancel')
      return {position, id, owner, found[1], found[3] or '0'}
    end
    if not found[1] then
      redis.call('DEL', task) -- a remnant without a message would block its id for ever
    end
    drops_left = drops_left - 1
  end
  return nil
end

-- What an earlier call with these owners took, held anew: those are among the newest running tasks.
local function taken_before(owners)
  local found = {}
  for position, queue in ipairs(queues) do
    for _, id in ipairs(redis.call('LRANGE', queue.active, 0, 9999)) do
      local task = redis.call('HMGET', queue.prefix .. id, 'owner', 'msg', 'child_deaths')
      if task[1] and task[2] and owners[task[1]] then
        redis.call('ZADD', queue.lease, lease_end_s, id)
        found[task[1]] = {position, id, task[1], task[2], task[3] or '0'}
      end
    end
  end
  return found
end

local before = {}
if is_repeat then
  local owners = {}
  for slot = 0, slot_count - 1 do
    owners[ARGV[first_slot + slot * (queue_count + 1)]] = true
  end
  before = taken_before(owners)
end

local taken = {}
for slot = 0, slot_count - 1 do
  local at = first_slot + slot * (queue_count + 1)
  local got = before[ARGV[at]]
  for choice = 1, queue_count do
    got = got or take_from(tonumber(ARGV[at + choice]), ARGV[at])
  end
  taken[#taken + 1] = got
end

local has_free_slot = has_more_slots or #taken < slot_count
for _, queue in ipairs(queues) do
  if channel ~= '' and has_free_slot then
    redis.call('ZREMRANGEBYSCORE', queue.idle, '-inf', '(' .. now_ms)
    redis.call('ZADD', queue.idle, idle_until_ms, channel)
    redis.call('PEXPIREAT', queue.idle, idle_until_ms + 60000)
  elseif not has_free_slot and redis.call('EXISTS', queue.idle) == 1 then
    redis.call('ZREM', queue.idle, channel)
    if not queue.is_dry and redis.call('LLEN', queue.pending) > 0 then
      wake(queue.idle, 1, queue.name, now_ms)
    end
  end
end
return taken
