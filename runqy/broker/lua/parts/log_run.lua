-- Append an ended attempt to the stream of its queue, which drops its oldest entries when it is full. Errors do not fail
-- the caller: workers can write the stream, and a Redis user that an administrator created may not append to it.
-- An entry has only one field, because each costs time: values separated by NULs. Only the last one may contain NUL.
-- `is_final` is '1' if the task ended with the attempt, '2' if it ended without one, after the attempts in `seen`.
-- `seen` is the second value of `remove_from_active`.
local function append_run(runs, id, run_id, outcome, is_final, ended_ns, details, seen)
  redis.pcall('XADD', runs, 'MAXLEN', '~', 20000, '*', 'run', outcome .. '\0' .. is_final .. '\0' .. ended_ns .. '\0'
    .. (seen[3] or '') .. '\0' .. (seen[4] or '') .. '\0' .. (seen[5] or '') .. '\0' .. (seen[6] or '') .. '\0'
    .. (seen[7] or '') .. '\0' .. id .. '\0' .. run_id .. '\0' .. details)
end

-- Append an attempt whose task is no longer active. Its hash must still exist.
local function log_run(runs, task, id, run_id, outcome, is_final, ended_ns, details)
  local seen = redis.call('HMGET', task, 'owner', 'finished_by', 'attempts', 'enqueued', 'due', 'started', 'worker')
  append_run(runs, id, run_id, outcome, is_final, ended_ns, details, seen)
end
