-- Append a task that ended without an attempt after it had been pending since `due` ('': unknown), and count it.
local function log_waiting_task(runs, counters, task, id, run_id, outcome, ended_ns, due, details)
  append_run(runs, id, run_id, outcome, '1', ended_ns, details, {'', '', '0', redis.call('HGET', task, 'enqueued'), due})
  add_to_counter(counters, outcome, 1)
end
