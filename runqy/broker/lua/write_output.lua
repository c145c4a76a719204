#!lua
-- Append what runs of one queue's tasks printed to the output of their attempts, and store their progress.
-- Each run has two keys, its task's hash and its output, and six arguments: lease_token, offset of the text in all that
-- the run printed, text, is_shared, progress ('': unchanged) and retention_s. Text that was written before is skipped. A
-- gap before the text is marked.
-- A task without the field `output` has none yet: any output belongs to an earlier task with the same id.
-- KEYS task_and_output*
-- ARGV max_bytes max_attempts kept_s ttl_archived runs*
--   ttl_archived: of tasks of other producers, which have none
-- RETURNS for each 1 written, 0 lease lost
-- USES has_lease
local max_bytes, max_attempts, kept_s = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

-- Return the last `max_bytes` of a text, from the beginning of a line.
local function last_lines(text)
  if #text <= max_bytes then
    return text
  end
  local line_end = string.find(text, '\n', -max_bytes - 1, true)
  if line_end and line_end < #text then
    return string.sub(text, line_end + 1)
  end
  return string.sub(text, -max_bytes)
end

-- Add an attempt to the list of those with output, and delete the output of the oldest one if there are too many.
local function add_attempt(output, list, attempt)
  local attempts = {}
  for other in string.gmatch(list or '', '%d+') do
    attempts[#attempts + 1] = other
  end
  attempts[#attempts + 1] = attempt
  while #attempts > max_attempts do
    local oldest = table.remove(attempts, 1)
    redis.call('HDEL', output, oldest, oldest .. ':run', oldest .. ':seen', oldest .. ':end', oldest .. ':shared')
  end
  redis.call('HSET', output, 'attempts', table.concat(attempts, ','))
end

local function append(task, output, attempt, token, offset, text, is_shared, ttl_s)
  local stored = redis.pcall('HMGET', output, attempt, attempt .. ':run', attempt .. ':seen', attempt .. ':end', 'attempts')
  if stored.err then
    redis.call('UNLINK', output) -- it has another type
    stored = {}
  end
  local before, seen, mark = stored[1] or '', tonumber(stored[3] or '0'), ''
  local finish = offset + #text
  if stored[1] and stored[2] ~= token then
    mark, seen = '[interrupted, and started again]\n', 0
  end
  if offset > seen then
    mark = mark .. '[' .. string.format('%.0f', offset - seen) .. ' bytes dropped]\n'
  else
    text = string.sub(text, seen - offset + 1)
  end
  if text == '' and mark == '' then
    return
  end
  if mark ~= '' and before ~= '' and string.sub(before, -1) ~= '\n' then
    mark = '\n' .. mark
  end
  local stop = string.format('%.0f', tonumber(stored[4] or '0') + #mark + #text)
  redis.call('HSET', output, attempt, last_lines(before .. mark .. text), attempt .. ':run', token,
    attempt .. ':seen', string.format('%.0f', math.max(seen, finish)), attempt .. ':end', stop)
  if is_shared == '1' then
    redis.call('HSET', output, attempt .. ':shared', '1')
  end
  if not stored[1] then
    add_attempt(output, stored[5], attempt)
  end
  redis.call('EXPIRE', output, ttl_s)
  redis.call('HSET', task, 'output', attempt .. ':' .. stop)
end

local outcomes = {}
for i = 1, #KEYS / 2 do
  local task, output, at = KEYS[2 * i - 1], KEYS[2 * i], 6 * i - 1
  local token, offset, text, is_shared, progress, retention_s = unpack(ARGV, at, at + 5)
  local seen = redis.call('HMGET', task, 'owner', 'finished_by', 'attempts', 'ttl_archived', 'state', 'output')
  local is_held = has_lease(token, seen[1], seen[2], seen[5])
  outcomes[i] = is_held and 1 or 0
  if is_held and progress ~= '' then
    redis.call('HSET', task, 'progress', progress)
  end
  if is_held and text ~= '' then
    local ttl_s = kept_s + math.max(tonumber(retention_s), tonumber(seen[4] or '') or tonumber(ARGV[4]))
    if not seen[6] then
      redis.call('UNLINK', output)
    end
    append(task, output, seen[3] or '1', token, tonumber(offset), text, is_shared, ttl_s)
  end
end
return outcomes
