#!lua flags=allow-oom
-- Lease pending tasks to a worker's free slots, each with a token, in the order that each slot prefers.
-- Ids without a task, and ids whose state names another index that lists them, are removed from the pending list.
-- A task whose cancellation was requested is archived. The chunks of an earlier run are deleted, and clients that follow
-- them are notified.
-- A worker with free slots left is listed as idle; one without passes its wake-up on while tasks are left.
-- Each queue has five keys (pending active lease paused idle), its name and the prefix of its tasks' keys;
-- each slot has its lease token and the positions of queues in the order in which to try them (0: none).
-- KEYS queue_keys*
-- ARGV worker now_ns now_ms lease_end_s wake_channel idle_until_ms has_more_slots is_repeat cancellation ended_prefix queue_count rest*
-- RETURNS for each task: position of its queue, id, lease_token, message, attempt, and its fields runs, child_deaths,
--   ttl_completed, active_timeout, retried, pending_since (due if it was leased before), shared_deaths and notify ('' where
--   one is missing)
-- USES wake release_lock append_end delete_task add_to_archive log_run add_to_counter log_waiting_task archive_canceled has_index
local worker, now_ns, now_ms, lease_end_s = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local channel, idle_until_ms, has_more_slots, is_repeat = ARGV[5], ARGV[6], ARGV[7] == '1', ARGV[8] == '1'
local queue_count = tonumber(ARGV[11])
local first_slot = 12 + 2 * queue_count
local slot_count = (#ARGV - first_slot + 1) / (queue_count + 1)
local drops_left = 1000
local FIELDS = {'child_deaths', 'ttl_completed', 'active_timeout', 'retried', 'pending_since', 'shared_deaths', 'notify'}

local queues = {}
for i = 1, queue_count do
  local base = (i - 1) * 5
  queues[i] = {
    pending = KEYS[base + 1], active = KEYS[base + 2], lease = KEYS[base + 3], idle = KEYS[base + 5],
    name = ARGV[11 + i], prefix = ARGV[11 + queue_count + i],
    is_dry = redis.call('EXISTS', KEYS[base + 4]) == 1,
  }
end

local function is_listed_elsewhere(queue, id, state)
  if state == 'active' then
    return redis.call('ZSCORE', queue.lease, id)
  end
  if has_index(state) then
    return redis.call('ZSCORE', string.sub(queue.prefix, 1, -3) .. state, id)
  end
  return false
end

local function dequeue_from(position, lease_token)
  local queue = queues[position]
  while queue and not queue.is_dry and drops_left > 0 do
    local id = redis.call('RPOP', queue.pending)
    if not id then
      queue.is_dry = true
      return nil
    end
    local task = queue.prefix .. id
    local found = redis.call('HMGET', task, 'msg', 'state', 'attempts', 'cancel', 'runs', 'chunks', unpack(FIELDS))
    if not found[1] then
      unlink_task(task, id) -- a hash without a message would block its id forever
    elseif found[4] and is_canceled(task, found[4]) and not is_listed_elsewhere(queue, id, found[2]) then
      archive_canceled(task, id, string.sub(queue.prefix, 1, -3), math.floor(now_ms / 1000), ARGV[9], ARGV[10])
    elseif not is_listed_elsewhere(queue, id, found[2]) then
      redis.call('LPUSH', queue.active, id)
      redis.call('ZADD', queue.lease, lease_end_s, id)
      local attempt = (tonumber(found[3]) or 0) + 1
      local run_number = string.format('%.0f', (tonumber(found[5]) or 0) + 1)
      redis.call('HSET', task, 'state', 'active', 'owner', lease_token, 'worker', worker, 'started', now_ns,
        'attempts', attempt, 'runs', run_number, 'due', found[11] or now_ns)
      redis.call('HDEL', task, 'pending_since', 'cancel', 'progress', 'chunks', 'ended')
      if found[6] then
        local _, chunks = kept_keys(task, id)
        redis.call('UNLINK', chunks)
        redis.call('PUBLISH', ARGV[10] .. id, 'chunks')
      end
      return {position, id, lease_token, found[1], attempt, run_number, unpack(found, 7)}
    end
    drops_left = drops_left - 1
  end
  return nil
end

-- Return the tasks leased by an earlier call with these tokens, with new leases: they are among the newest active tasks.
local function find_leased(owners)
  local found = {}
  for position, queue in ipairs(queues) do
    for _, id in ipairs(redis.call('LRANGE', queue.active, 0, 9999)) do
      local task = redis.call('HMGET', queue.prefix .. id, 'owner', 'msg', 'attempts', 'runs',
        'child_deaths', 'ttl_completed', 'active_timeout', 'retried', 'due', 'shared_deaths', 'notify')
      if task[1] and task[2] and owners[task[1]] then
        redis.call('ZADD', queue.lease, lease_end_s, id)
        found[task[1]] = {position, id, task[1], task[2], unpack(task, 3)}
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
  before = find_leased(owners)
end

local taken = {}
for slot = 0, slot_count - 1 do
  local at = first_slot + slot * (queue_count + 1)
  local got = before[ARGV[at]]
  for choice = 1, queue_count do
    got = got or dequeue_from(tonumber(ARGV[at + choice]), ARGV[at])
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
