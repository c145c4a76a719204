-- Append the end of a task that has the field `notify` to its queue's stream, which is never trimmed. Without `end_id`
-- one is made. The hash keeps the time as `ended`, from which `find_untold_ends` knows that the end was appended.
-- Errors do not fail the caller: workers can write the stream, and an end that is missing in it is found later.
-- `notify` begins with '1' if the result is wanted (`broker/notify.py`). `details` are those of `append_run`.
local MAX_ENDS_WITH_RESULTS, MAX_RESULT_BYTES = 10000, 20480 -- streams/ends.py has them too
local END_OUTCOMES = {completed = true, canceled = true, expired = true, deleted = true} -- others: archived

local function append_end(task, id, notify, end_id, outcome, ended_ns, attempt, details, result)
  local ends = 'runqy:q:' .. string.sub(task, 7, -#id - 3) .. 'ends' -- QueueKeys.ends
  outcome = END_OUTCOMES[outcome] and outcome or 'archived'
  if not end_id then
    local now = redis.call('TIME')
    ended_ns = now[1] .. string.format('%06d', now[2]) .. '000'
    end_id = outcome .. '-' .. ended_ns
  end
  local is_omitted = '0'
  if outcome == 'completed' and string.sub(notify, 1, 1) == '1' then
    result = result or redis.call('HGET', task, 'result') or '' -- it may have been written during the run
    local count = redis.pcall('XLEN', ends)
    if #result > MAX_RESULT_BYTES or type(count) ~= 'number' or count >= MAX_ENDS_WITH_RESULTS then
      is_omitted, result = '1', ''
    end
  else
    result = ''
  end
  local appended = redis.pcall('XADD', ends, '*', 'end', outcome .. '\0' .. ended_ns .. '\0' .. (attempt or '') .. '\0'
    .. is_omitted .. '\0' .. end_id .. '\0' .. id, 'notify', notify, 'details', details, 'result', result)
  if type(appended) == 'string' then
    redis.call('HSET', task, 'ended', ended_ns)
  end
end

-- Append the end of a task that is about to be deleted, unless it has been appended.
local function end_deleted(task, id)
  local seen = redis.call('HMGET', task, 'notify', 'state', 'ended', 'attempts')
  local is_over = seen[2] == 'completed' or seen[2] == 'archived'
  if seen[1] and not (is_over and seen[3]) then
    append_end(task, id, seen[1], nil, is_over and seen[2] or 'deleted', nil, seen[4], '')
  end
end
