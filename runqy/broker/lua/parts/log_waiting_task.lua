-- Append a task that ended without an attempt after it had been pending since `due` ('': unknown), and count it.
local function log_waiting_task(runs, counters, task, id, run_id, outcome, ended_ns, due, details)
  local seen = redis.call('HMGET', task, 'attempts', 'enqueued', 'notify')
  local known = {'', '', seen[1], seen[2], due, '', '', seen[3]}
  append_run(runs, task, id, run_id, outcome, '2', ended_ns, details, known)
  count_outcome(counters, outcome, (tonumber(seen[1]) or 0) == 0, true)
end
