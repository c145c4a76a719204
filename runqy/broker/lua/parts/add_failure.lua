local MAX_FAILURES, MAX_FAILURES_BYTES = 50, 8192

-- Add an attempt that failed to the last ones, which the task remembers, one a line: attempt, worker and time; class; and
-- text of the error, all JSON. Where these become too long, the oldest texts are dropped first. `failure` has class and
-- text. `seen` is as for `append_run`.
local function add_failure(task, seen, ended_ns, failure)
  local run = cjson.encode({seen[3] or '', seen[7] or '', ended_ns})
  local failures = (redis.call('HGET', task, 'failures') or '') .. run .. '\t' .. failure .. '\n'
  if select(2, string.gsub(failures, '\n', '')) > MAX_FAILURES then
    failures = string.gsub(failures, '^[^\n]*\n', '', 1)
  end
  while #failures > MAX_FAILURES_BYTES do
    local shorter, count = string.gsub(failures, '(\t[^\t\n]*)\t[^\n]*', '%1', 1)
    failures = count == 1 and shorter or string.gsub(failures, '^[^\n]*\n', '', 1)
  end
  redis.call('HSET', task, 'failures', failures)
end
