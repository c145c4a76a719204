-- Append an ended attempt to the stream of its queue, which drops its oldest entries when it is full, and the end of its
-- task to the stream of ends, if that is told to others. Errors do not fail the caller: workers can write the stream, and
-- a Redis user that an administrator created may not append to it.
-- An entry has only one field, because each costs time: values separated by NULs. Only the last one may contain NUL.
-- `is_final` is '1' if the task ended with the attempt, '2' if it ended without one, after the attempts in `seen`.
-- `seen` is the second value of `remove_from_active`; `result` is nil if it is in the hash, or if there is none.
local function append_run(runs, task, id, run_id, outcome, is_final, ended_ns, details, seen, result)
  redis.pcall('XADD', runs, 'MAXLEN', '~', 20000, '*', 'run', outcome .. '\0' .. is_final .. '\0' .. ended_ns .. '\0'
    .. (seen[3] or '') .. '\0' .. (seen[4] or '') .. '\0' .. (seen[5] or '') .. '\0' .. (seen[6] or '') .. '\0'
    .. (seen[7] or '') .. '\0' .. id .. '\0' .. run_id .. '\0' .. details)
  if seen[8] and is_final ~= '0' then
    append_end(task, id, seen[8], run_id, outcome, ended_ns, seen[3], details, result)
  end
end

-- Append an attempt whose task is no longer active. Its hash must still exist. Return what was seen of the task.
local function log_run(runs, task, id, run_id, outcome, is_final, ended_ns, details)
  local seen = redis.call('HMGET', task, 'owner', 'finished_by', 'attempts', 'enqueued', 'due', 'started', 'worker',
    'notify')
  append_run(runs, task, id, run_id, outcome, is_final, ended_ns, details, seen)
  return seen
end
