-- Append a task that ended without an attempt after it had been pending since `due` ('': unknown), and count it.
local function log_waiting_task(runs, counters, task, id, run_id, outcome, ended_ns, due, details)
  local seen = redis.call('HMGET', task, 'attempts', 'enqueued')
  append_run(runs, id, run_id, outcome, '2', ended_ns, details, {'', '', seen[1], seen[2], due})
  add_to_counter(counters, outcome, 1)
end
